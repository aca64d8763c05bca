"""Curves with a low barrier, found by an optimiser."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import scipy.optimize
from scipy.special import logsumexp, softmax

from gptbayes.diagnostics.mode_connectivity.paths import barrier, bezier_path

CURVE_POINTS = 21
"""Points of a curve at which the optimiser evaluates the density: every other one of a path."""

Gradient = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""``gradient(points)`` returns log densities ``(point,)`` and gradients ``(point, weight)``."""


class Curve(NamedTuple):
    """An optimised quadratic Bézier curve.

    Attributes
    ----------
    control : ndarray, (weight,)
        The control point: the midpoint of the ends if no curve was better than the straight path.
    barrier : float
        In nats, over the points at which the optimiser evaluated the density.
    n_evaluations : int
        Number of curves that were evaluated.
    """

    control: np.ndarray
    barrier: float
    n_evaluations: int


def optimise_curve(
    gradient: Gradient,
    start: np.ndarray,
    end: np.ndarray,
    rng: np.random.Generator,
    *,
    n_points: int = CURVE_POINTS,
    max_iterations: int = 200,
) -> Curve:
    """Find a Bézier curve with a low barrier between two points.

    L-BFGS minimises a smooth maximum of the depth of the points of the curve below the lower end,
    in two rounds: first with a high temperature, which averages over points, then with a low one.
    It starts at a random control point near the midpoint, because symmetry can make the straight
    path a saddle point, and stops when no point is below the ends.

    Parameters
    ----------
    gradient : callable
        Takes points ``(point, weight)``; returns log densities ``(point,)`` and their gradients.
    start, end : ndarray, (weight,)
    rng : numpy.random.Generator
    n_points : int
        Of the curve, including its ends.
    max_iterations : int
        Of L-BFGS in each round.

    Returns
    -------
    Curve
        The best curve that was evaluated. It is never worse than the straight path.
    """
    t = np.linspace(0, 1, n_points)
    weight = 2 * t * (1 - t)
    middle = (start + end) / 2
    level = min(*gradient(np.stack([start, end]))[0])
    best = Curve(middle, np.inf, 0)

    def objective(control, temperature):
        nonlocal best
        values, slopes = gradient(bezier_path(start, control, end, t))
        values = np.where(np.isfinite(values), values, -1e300)
        best = _better(best, control, float(barrier(values)))
        depth = (level - values) / temperature
        soft = temperature * (logsumexp(depth) - np.log(n_points))
        return soft, -(softmax(depth) * weight) @ np.nan_to_num(slopes)

    objective(middle, 1.0)
    noise = rng.normal(size=middle.shape)
    control = middle + 0.05 * np.linalg.norm(end - start) * noise / np.linalg.norm(noise)
    for share in (0.3, 0.03):
        if best.barrier <= 0:
            break
        temperature = max(share * best.barrier, 1e-3)
        _minimise(objective, control, temperature, max_iterations, lambda: best.barrier <= 0)
        control = best.control
    return best


def _better(best, control, height):
    n = best.n_evaluations + 1
    return (
        Curve(control.copy(), height, n)
        if height < best.barrier
        else best._replace(n_evaluations=n)
    )


class _Converged(Exception):
    pass


def _minimise(objective, control, temperature, max_iterations, converged):
    """L-BFGS on the control point; ``objective`` records the best one."""

    def stop(_):
        if converged():
            raise _Converged

    try:
        scipy.optimize.minimize(
            objective,
            control,
            args=(temperature,),
            jac=True,
            method="L-BFGS-B",
            callback=stop,
            options={"maxiter": max_iterations, "maxcor": 20},
        )
    except _Converged:
        pass
