"""Are the places where chains stay connected? The log posterior along paths between their draws.

A trained network is joined to another by a path without a barrier where only symmetry keeps them
apart (Garipov et al. 2018; Entezari et al. 2022). For a posterior the question needs more care,
because in many dimensions draws do not lie near the modes:

- The yardstick is the level of the two draws at the ends of a path: the barrier is how far the log
  posterior falls below the lower of them, in nats. It is compared with the spread that the log
  posterior has over draws of one chain, and with the same paths between two draws of one chain,
  which nothing separates.
- The mean of some draws is no draw. Half-way between two independent draws of a normal
  distribution of P dimensions the log density is P / 4 nats higher than at draws, and at the mean
  P / 2. A straight path between draws climbs by that much and hides every barrier that is lower; a
  path between chain means begins and ends up there, and says little about draws.
- An arc keeps the spread of draws while the centre goes straight from one chain's mean to the
  other's. Between draws of one normal distribution it stays at their level; between two modes it
  falls by what lies between them.
- A curve that is bent by an optimiser is never worse than the straight path. If it has no barrier,
  the two ends are connected above their own level; whether the passage is wide enough for a sampler
  to find is another matter. If it has one, another curve may have none.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from typing import NamedTuple

import numpy as np
import scipy.optimize
import xarray as xr
from scipy.special import logsumexp, softmax
from scipy.stats import mannwhitneyu

from gptbayes.model.forward import Parameters
from gptbayes.model.log_density import log_posterior, log_posterior_gradient, ravel, unravel
from gptbayes.model.problem import Problem
from gptbayes.symmetry import align
from gptbayes.toolchain import ToolchainError

N_POINTS = 41
"""Points of a path, ends included."""
BENT_POINTS = 21
"""Points that the optimiser of a curve looks at: every other one."""
FEW_PAIRS = 5
ALPHA = 0.01
"""Of the test that arcs fall further between chains than within."""

Density = Callable[[np.ndarray], np.ndarray]
Gradient = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


class Bend(NamedTuple):
    """A quadratic Bézier curve that an optimiser bent.

    Attributes
    ----------
    control : ndarray, (weight,)
        Its control point; the middle between the ends where the straight path was not bettered.
    barrier : float
        Of the curve, in nats, at the points that the optimiser looked at.
    n_evaluations : int
        Curves that were looked at.
    """

    control: np.ndarray
    barrier: float
    n_evaluations: int


def barrier(log_density: np.ndarray) -> np.ndarray:
    """How far a path falls below the lower of its ends.

    Parameters
    ----------
    log_density : ndarray, (..., point)
        Along a path, in nats.

    Returns
    -------
    ndarray, (...)
        0 where it nowhere does.
    """
    ends = np.minimum(log_density[..., 0], log_density[..., -1])
    return ends - log_density.min(axis=-1)


def straight(start: np.ndarray, end: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Points of the straight path, (..., point, weight), at ``t`` from 0 to 1."""
    t = t[:, None]
    return (1 - t) * start[..., None, :] + t * end[..., None, :]


def arc(
    start: np.ndarray,
    end: np.ndarray,
    t: np.ndarray,
    start_centre: np.ndarray,
    end_centre: np.ndarray,
) -> np.ndarray:
    """Points of a path that keeps its distance from a centre that goes straight.

    The deviations from the centres are mixed with weights whose squares sum to one: of independent
    normal deviations of one covariance, every point of the path has that covariance too (the great
    circle of elliptical slice sampling, Murray et al. 2010).

    Parameters
    ----------
    start, end, start_centre, end_centre : ndarray, (..., weight)
    t : ndarray, (point,)
        From 0 to 1.

    Returns
    -------
    ndarray, (..., point, weight)
    """
    angle = 0.5 * np.pi * t[:, None]
    deviation = np.cos(angle) * (start - start_centre)[..., None, :]
    deviation = deviation + np.sin(angle) * (end - end_centre)[..., None, :]
    return straight(start_centre, end_centre, t) + deviation


def bezier(start: np.ndarray, control: np.ndarray, end: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Points of a quadratic Bézier curve, (..., point, weight) (Garipov et al. 2018, section 3.2).

    With the control point in the middle between the ends it is the straight path.
    """
    t = t[:, None]
    ends = (1 - t) ** 2 * start[..., None, :] + t**2 * end[..., None, :]
    return ends + 2 * t * (1 - t) * control[..., None, :]


def bend(
    gradient: Gradient,
    start: np.ndarray,
    end: np.ndarray,
    rng: np.random.Generator,
    *,
    n_points: int = BENT_POINTS,
    max_iterations: int = 200,
) -> Bend:
    """Bend a curve until it falls as little below its ends as it can.

    L-BFGS minimises a smooth maximum over the path of how far a point lies below the lower end,
    first one that is close to the mean, then one that is close to the maximum. It starts beside the
    straight path, off any line of symmetry, and stops where nothing lies below the ends.

    Parameters
    ----------
    gradient : callable
        Takes points ``(point, weight)``; returns log densities ``(point,)`` and their gradients.
    start, end : ndarray, (weight,)
    rng : numpy.random.Generator
    n_points : int
        Of the curve, ends included.
    max_iterations : int
        Of L-BFGS, each of two times.

    Returns
    -------
    Bend
        The best curve that was seen, the straight path included.
    """
    t = np.linspace(0, 1, n_points)
    lever = 2 * t * (1 - t)
    middle = (start + end) / 2
    level = min(*gradient(np.stack([start, end]))[0])
    seen = _Seen(middle, np.inf, 0)

    def look(control, temperature):
        nonlocal seen
        values, slopes = gradient(bezier(start, control, end, t))
        values = np.where(np.isfinite(values), values, -1e300)
        seen = _better(seen, control, float(barrier(values)))
        depth = (level - values) / temperature
        soft = temperature * (logsumexp(depth) - np.log(n_points))
        return soft, -(softmax(depth) * lever) @ np.nan_to_num(slopes)

    look(middle, 1.0)
    noise = rng.normal(size=middle.shape)
    control = middle + 0.05 * np.linalg.norm(end - start) * noise / np.linalg.norm(noise)
    for share in (0.3, 0.03):
        if seen.barrier <= 0:
            break
        temperature = max(share * seen.barrier, 1e-3)
        _descend(look, control, temperature, max_iterations, lambda: seen.barrier <= 0)
        control = seen.control
    return Bend(*seen)


def connections(
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
        Draws as the sampler made them, each ``(chain, draw, dims of that parameter)``.
    rng : numpy.random.Generator
    ends : {"draws", "means"}
        What the paths join: draws of two chains, with draws of one chain for comparison, or the
        means of chains, which lie far above any draw.
    n_pairs : int
        Pairs of ends of different chains, and as many of the same chain.
    max_draws : int
        Draws per chain, evenly spaced, that are aligned and whose mean is a chain's centre.
    curves : bool
        Whether to bend curves; the kernels must be compiled for that.
    n_points : int
        Of a path, ends included; odd.
    max_iterations : int
        As in `bend`.

    Returns
    -------
    Dataset (alignment, path, pair, point)
        ``log_posterior`` in nats, ``barrier`` (alignment, path, pair) in nats; coords ``alignment``
        ("as drawn", "aligned"), ``path`` ("straight", "arc", "curve"), ``t`` (point), ``chain`` and
        ``draw`` (pair, end), ``same_chain`` (pair). Attrs: ``ends``, ``level`` and ``sd``, the mean
        over chains of mean and sd of the log posterior over draws, ``n_parameters``, and ``note``,
        which says why there are no curves where there are none. Means of chains have no arcs.

    Raises
    ------
    ValueError
        For unusable settings, or if there are not two places to join.
    """
    stage = problem.stage
    _check(ends, n_points, n_pairs)
    thin = _thinned(parameters, stage, max_draws)
    drawn = ravel(stage, thin.parameters)
    if min(drawn.shape[0] - 1, n_pairs) < 1 and (ends == "means" or drawn.shape[1] < 2):
        raise ValueError(f"paths need two chains or two draws of one, got {drawn.shape[:2]}")
    gauges = {"as drawn": drawn, "aligned": ravel(stage, align(stage, thin.parameters).parameters)}
    chain, draw = _pairs(drawn.shape[0], drawn.shape[1], n_pairs, ends, rng)
    gradient, note = _gradient(problem) if curves else (None, "curves were not asked for")
    t = np.linspace(0, 1, n_points)

    def density(points):
        return log_posterior(problem, unravel(stage, problem.design, points))

    rows = [
        _along(density, gradient, flat, chain, draw, ends, t, rng, max_iterations)
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
            "draw": (("pair", "end"), thin.index[draw]),
            "same_chain": ("pair", chain[:, 0] == chain[:, 1]),
        },
        {
            "ends": ends,
            "level": float(levels.mean()),
            "sd": float(levels.std(axis=1, ddof=1).mean()) if levels.shape[1] > 1 else np.nan,
            "n_parameters": drawn.shape[-1],
            "note": note,
        },
    )


def connection_sentences(found: xr.Dataset) -> list[str]:
    """What the barriers say, in words.

    Parameters
    ----------
    found : Dataset
        As `connections` returns it.

    Returns
    -------
    list of str
    """
    between = ~found["same_chain"].values
    sd, paths = found.attrs["sd"], [str(name) for name in found["path"].values]
    sentences = [_sentence(found, path, between) for path in paths] if between.any() else []
    if "arc" in paths and between.any() and not between.all():
        sentences.append(
            _excess(found["barrier"].sel(path="arc", alignment="aligned"), between, sd)
        )
    if np.isfinite(sd):
        sentences.append(f"the log posterior of draws of one chain has sd {sd:.1f} nats")
    if between.sum() < FEW_PAIRS:
        sentences.append(f"only {between.sum()} pairs of chains were joined: medians are rough")
    line = found["log_posterior"].sel(path="straight", alignment="aligned")
    climb = float((line.max("point") - line.isel(point=[0, -1]).max("point")).median())
    if climb > 2 * sd:
        sentences.append(
            f"straight paths climb by {climb:.0f} nats above their ends, as paths between draws in "
            "many dimensions do, and hide what is lower than that: arcs do not"
        )
    return [*sentences, found.attrs["note"]] if found.attrs["note"] else sentences


_KINDS = {
    "straight": "straight paths",
    "arc": "arcs, which keep the spread of draws,",
    "curve": "optimised curves",
}


_APART = (
    "something is between the chains, a mode of its own or a symmetry that the alignment missed"
)


class _Seen(NamedTuple):
    control: np.ndarray
    barrier: float
    n_evaluations: int


class _Thinned(NamedTuple):
    parameters: dict[str, np.ndarray]
    index: np.ndarray


def _check(ends, n_points, n_pairs):
    if ends not in ("draws", "means"):
        raise ValueError(f"ends must be draws or means, got {ends!r}")
    if n_points < 3 or n_points % 2 == 0:
        raise ValueError(f"n_points must be odd and at least 3, got {n_points}")
    if n_pairs < 1:
        raise ValueError(f"n_pairs must be a positive integer, got {n_pairs}")


def _better(seen, control, height):
    n = seen.n_evaluations + 1
    return (
        _Seen(control.copy(), height, n)
        if height < seen.barrier
        else seen._replace(n_evaluations=n)
    )


class _Enough(Exception):
    pass


def _descend(look, control, temperature, max_iterations, enough):
    """L-BFGS on the control point; what is best is remembered by ``look``."""

    def stop(_):
        if enough():
            raise _Enough

    try:
        scipy.optimize.minimize(
            look,
            control,
            args=(temperature,),
            jac=True,
            method="L-BFGS-B",
            callback=stop,
            options={"maxiter": max_iterations, "maxcor": 20},
        )
    except _Enough:
        pass


def _gradient(problem):
    try:
        return log_posterior_gradient(problem), ""
    except ToolchainError as error:
        return None, f"no curves, for their gradient needs the C++ kernels: {error}"


def _thinned(parameters, stage, max_draws):
    n_draw = parameters[stage.parameters[0].name].shape[1]
    index = np.unique(np.linspace(0, n_draw - 1, min(n_draw, max_draws)).round().astype(int))
    return _Thinned({p.name: parameters[p.name][:, index] for p in stage.parameters}, index)


def _pairs(n_chain, n_draw, n_pairs, ends, rng):
    """Chains and draws of both ends, (pair, end): of different chains first, then of the same."""
    between = np.array(list(combinations(range(n_chain), 2)), dtype=int).reshape(-1, 2)
    if len(between):
        repeats = 1 if ends == "means" else -(-n_pairs // len(between))
        between = np.concatenate([rng.permutation(between) for _ in range(repeats)])[:n_pairs]
    chain, draw = between, rng.integers(n_draw, size=between.shape)
    if ends == "means" or n_draw < 2:
        return chain, draw
    within = np.concatenate([rng.permutation(n_chain) for _ in range(-(-n_pairs // n_chain))])
    within = np.repeat(within[:n_pairs, None], 2, axis=1)
    half = n_draw // 2  # far apart, or autocorrelation would make the path short
    first = rng.integers(half, size=n_pairs)
    far = np.column_stack([first, first + n_draw - half])
    return np.concatenate([chain, within]), np.concatenate([draw, far])


def _along(density, gradient, flat, chain, draw, ends, t, rng, max_iterations):
    """Log densities along all kinds of paths of one gauge, each (pair, point)."""
    centres = flat.mean(axis=1)
    if ends == "means":
        start, end = centres[chain[:, 0]], centres[chain[:, 1]]
    else:
        start, end = (flat[chain[:, k], draw[:, k]] for k in (0, 1))
    found = {"straight": density(straight(start, end, t))}
    if ends == "draws":
        found["arc"] = density(arc(start, end, t, centres[chain[:, 0]], centres[chain[:, 1]]))
    if gradient is not None:
        found["curve"] = _bent(density, gradient, start, end, t, rng, max_iterations)
        # Between the points that the optimiser saw a curve may fall further than the straight path.
        worse = barrier(found["curve"]) > barrier(found["straight"])
        found["curve"] = np.where(worse[:, None], found["straight"], found["curve"])
    return found


def _bent(density, gradient, start, end, t, rng, max_iterations):
    settings = {"n_points": (len(t) + 1) // 2, "max_iterations": max_iterations}
    pairs = zip(start, end, strict=True)
    controls = np.stack([bend(gradient, *pair, rng, **settings).control for pair in pairs])
    return density(bezier(start, controls, end, t))


def _sentence(found, path, between):
    one = found["barrier"].sel(path=path)
    falls = [
        f"{_median(one.sel(alignment=alignment).values[between])} {alignment}"
        for alignment in found["alignment"].values
    ]
    ends = found.attrs["ends"]
    text = f"{_KINDS[path]} between {ends} of different chains fall {' and '.join(falls)}"
    if between.all():
        return text
    same = one.sel(alignment="aligned").values[~between]
    return f"{text}; between draws of one chain {_median(same)} aligned"


def _excess(barriers, between, sd):
    """Whether arcs fall further between chains than within: by how much, and beyond chance or not.

    Ranks of the pairs are compared (Mann & Whitney 1947): barriers are skewed, and pairs few.
    """
    apart, together = (barriers.values[which] for which in (between, ~between))
    excess = float(np.median(apart) - np.median(together))
    if excess <= 0:
        return "aligned arcs between chains fall no further than arcs within one"
    p = float(mannwhitneyu(apart, together, alternative="greater").pvalue)
    text = f"aligned arcs between chains fall {excess:.1f} nats further than arcs within one"
    if p > ALPHA:
        return f"{text}, no more than chance gives with so few (p {p:.2g})"
    if excess <= sd:
        return f"{text} (p {p:.2g}), but less than the sd of the log posterior over draws"
    return f"{text} (p {p:.2g}): {_APART}"


def _median(values):
    if not values.size:
        return "nothing that could be measured"
    low, middle, high = np.quantile(values, [0, 0.5, 1])
    return f"{middle:.1f} nats ({low:.1f} to {high:.1f})"
