"""The log posterior along paths between the chains of a fit."""

from __future__ import annotations

from itertools import combinations
from typing import NamedTuple

import numpy as np
import xarray as xr

from gptbayes.diagnostics.mode_connectivity.curves import optimise_curve
from gptbayes.diagnostics.mode_connectivity.paths import (
    arc_path,
    barrier,
    bezier_path,
    straight_path,
)
from gptbayes.model.forward import Parameters
from gptbayes.model.log_density import log_posterior, log_posterior_gradient, ravel, unravel
from gptbayes.model.problem import Problem
from gptbayes.stats.mcmc import ess
from gptbayes.stats.thinning import evenly_spaced
from gptbayes.symmetry import align
from gptbayes.toolchain import ToolchainError

N_POINTS = 41
"""Points of a path, including its ends."""


def connect_chains(
    problem: Problem,
    parameters: Parameters,
    *,
    rng: np.random.Generator,
    ends: str = "draws",
    n_pairs: int = 10,
    max_draws: int = 100,
    curves: bool = True,
    n_points: int = N_POINTS,
    max_iterations: int = 200,
) -> xr.Dataset:
    """The log posterior along paths between chains, before and after alignment.

    Parameters
    ----------
    problem : Problem
    parameters : mapping of str to ndarray
        Draws as sampled, each ``(chain, draw, dims of that parameter)``.
    rng : numpy.random.Generator
    ends : {"draws", "means"}
        What the paths connect: draws of two chains, with two draws of one chain for comparison; or
        the means of chains, whose log posterior is far above that of any draw.
    n_pairs : int
        Number of pairs between chains, and as many within chains.
    max_draws : int
        Draws per chain, evenly spaced, that are aligned. Their mean is the centre of a chain.
    curves : bool
        Whether to optimise curves, which needs the compiled C++ kernels.
    n_points : int
        Of a path, including its ends; odd.
    max_iterations : int
        As in `optimise_curve`.

    Returns
    -------
    Dataset (alignment, path, pair, point)
        ``log_posterior`` in nats, ``barrier`` (alignment, path, pair) in nats; coords ``alignment``
        ("as drawn", "aligned"), ``path`` ("straight", "arc", "curve"), ``t`` (point), ``chain`` and
        ``draw`` (pair, end), ``same_chain`` (pair). Attrs: ``ends``; ``level`` and ``sd``, mean and
        standard deviation of the log posterior over the draws of a chain, averaged over chains;
        ``ess``, the smallest effective sample size of the log posterior of a chain by itself (nan
        for fewer than four draws); ``n_parameters``; and ``note``, which gives the reason if there
        are no curves. Between means of chains there are no arcs.

    Raises
    ------
    ValueError
        If a setting is not valid, or there are no two points to connect.
    """
    stage = problem.stage
    _check(ends, n_points, n_pairs)
    thin = _thin(parameters, stage, max_draws)
    drawn = ravel(stage, thin.parameters)
    if min(drawn.shape[0] - 1, n_pairs) < 1 and (ends == "means" or drawn.shape[1] < 2):
        raise ValueError(f"paths need two chains or two draws of one, got {drawn.shape[:2]}")
    gauges = {"as drawn": drawn, "aligned": ravel(stage, align(stage, thin.parameters).parameters)}
    chain, draw = _choose_pairs(drawn.shape[0], drawn.shape[1], n_pairs, ends, rng)
    gradient, note = _gradient(problem) if curves else (None, "curves were not requested")
    t = np.linspace(0, 1, n_points)

    def density(points):
        return log_posterior(problem, unravel(stage, problem.design, points))

    rows = [
        _densities_along_paths(density, gradient, flat, chain, draw, ends, t, rng, max_iterations)
        for flat in gauges.values()
    ]
    values = np.stack([list(each.values()) for each in rows])  # (alignment, path, pair, point)
    levels = density(drawn)
    return xr.Dataset(
        {
            "log_posterior": (("alignment", "path", "pair", "point"), values),
            "barrier": (("alignment", "path", "pair"), barrier(values)),
        },
        {
            "alignment": list(gauges),
            "path": list(rows[0]),
            "t": ("point", t),
            "chain": (("pair", "end"), chain),
            "draw": (("pair", "end"), thin.draw_index[draw]),
            "same_chain": ("pair", chain[:, 0] == chain[:, 1]),
        },
        {
            "ends": ends,
            "level": float(levels.mean()),
            "sd": float(levels.std(axis=1, ddof=1).mean()) if levels.shape[1] > 1 else np.nan,
            "ess": float(np.min([ess(each[None], "bulk") for each in levels])),
            "n_parameters": drawn.shape[-1],
            "note": note,
        },
    )


class _Thinned(NamedTuple):
    parameters: dict[str, np.ndarray]
    draw_index: np.ndarray


def _check(ends, n_points, n_pairs):
    if ends not in ("draws", "means"):
        raise ValueError(f"ends must be draws or means, got {ends!r}")
    if n_points < 3 or n_points % 2 == 0:
        raise ValueError(f"n_points must be odd and at least 3, got {n_points}")
    if n_pairs < 1:
        raise ValueError(f"n_pairs must be a positive integer, got {n_pairs}")


def _gradient(problem):
    try:
        return log_posterior_gradient(problem), ""
    except ToolchainError as error:
        return None, f"there are no curves, because their gradient needs the C++ kernels: {error}"


def _thin(parameters, stage, max_draws):
    n_draw = parameters[stage.parameters[0].name].shape[1]
    index = evenly_spaced(n_draw, max_draws)
    return _Thinned({p.name: parameters[p.name][:, index] for p in stage.parameters}, index)


def _choose_pairs(n_chain, n_draw, n_pairs, ends, rng):
    """Chains and draws of both ends, (pair, end): first between chains, then within chains."""
    between = np.array(list(combinations(range(n_chain), 2)), dtype=int).reshape(-1, 2)
    if len(between):
        repeats = 1 if ends == "means" else -(-n_pairs // len(between))
        between = np.concatenate([rng.permutation(between) for _ in range(repeats)])[:n_pairs]
    chain, draw = between, rng.integers(n_draw, size=between.shape)
    if ends == "means" or n_draw < 2:
        return chain, draw
    within = np.concatenate([rng.permutation(n_chain) for _ in range(-(-n_pairs // n_chain))])
    within = np.repeat(within[:n_pairs, None], 2, axis=1)
    half = n_draw // 2  # half a chain apart, so that draws are nearly independent
    first = rng.integers(half, size=n_pairs)
    far = np.column_stack([first, first + n_draw - half])
    return np.concatenate([chain, within]), np.concatenate([draw, far])


def _densities_along_paths(density, gradient, flat, chain, draw, ends, t, rng, max_iterations):
    """Log densities along each kind of path, (pair, point)."""
    centres = flat.mean(axis=1)
    if ends == "means":
        start, end = centres[chain[:, 0]], centres[chain[:, 1]]
    else:
        start, end = (flat[chain[:, k], draw[:, k]] for k in (0, 1))
    found = {"straight": density(straight_path(start, end, t))}
    if ends == "draws":
        found["arc"] = density(arc_path(start, end, t, centres[chain[:, 0]], centres[chain[:, 1]]))
    if gradient is not None:
        found["curve"] = _along_curves(density, gradient, start, end, t, rng, max_iterations)
        # Between the points of the optimiser a curve may fall further than the straight path.
        worse = barrier(found["curve"]) > barrier(found["straight"])
        found["curve"] = np.where(worse[:, None], found["straight"], found["curve"])
    return found


def _along_curves(density, gradient, start, end, t, rng, max_iterations):
    settings = {"n_points": (len(t) + 1) // 2, "max_iterations": max_iterations}
    pairs = zip(start, end, strict=True)
    controls = np.stack(
        [optimise_curve(gradient, *pair, rng, **settings).control for pair in pairs]
    )
    return density(bezier_path(start, controls, end, t))
