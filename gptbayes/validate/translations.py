"""Exact marginals of any model along translations that do not change its predictions.

Suppose that the translation θ → θ + c d changes no prediction, for every c, and that the components
of θ have independent normal priors with means m and standard deviations s. Then

    t = Σ d_i (θ_i - m_i) / s_i² / √(Σ d_i² / s_i²)

is standard normal a priori and independent of everything that the translation does not change.
Therefore it is standard normal a posteriori, too, and the draws of any sampler can be tested.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
from scipy.stats import norm

from gptbayes.stats.thinning import evenly_spaced
from gptbayes.symmetry.dimension import STEP
from gptbayes.validate.exact_marginals import ExactMarginal, compare_moments

Values = Mapping[str, Any]
"""Arrays by the names of variables, each of the shape of the variable."""
N_POINTS = 4
"""Number of draws at which derivatives are taken."""
MAX_PARAMETERS = 3000
"""Largest number of parameters for which directions are searched."""
RELATIVE_STEP = 6e-6
"""Step of central differences, relative to the prior standard deviation."""
NULL = {True: 1e-9, False: 1e-6}
"""A singular value below this share of the largest is zero: by complex steps, by differences."""
TOLERANCE = 1e-7
"""Largest change of a prediction, relative to the larger of 1 and its value, that is rounding."""


def check_translations(
    posterior: xr.Dataset,
    predict: Callable[[dict[str, np.ndarray]], Any],
    prior: Mapping[str, tuple[Any, Any]],
    directions: Mapping[str, Values] | None = None,
) -> xr.Dataset:
    """Test posterior draws against exact marginals along translations of any model.

    Parameters
    ----------
    posterior : Dataset (chain, draw, ...)
    predict : callable
        Takes one draw, a dict of arrays of the variables in ``prior``, and returns an array of
        everything through which the likelihood depends on them, for example linear predictors.
    prior : mapping of str to (mean, sd)
        Independent normal priors of the variables: numbers, or arrays of the shape of the variable.
    directions : mapping of str to mapping of str to array, optional
        Translations by name. Variables that a translation does not name are not changed. By
        default all translations, see `find_translations`.

    Returns
    -------
    Dataset (direction)
        As of `gptbayes.validate.exact_marginals.check_exact_marginals`, with one standard normal
        scalar for each translation. `gptbayes.validate.exact_marginals.family_wise_p` combines the
        p-values.

    Raises
    ------
    ValueError
        If there is no translation, one changes a prediction (the message has the change), a
        variable or a shape does not fit, a standard deviation is not positive, or there are more
        than 3000 parameters to search.

    Examples
    --------
    Two intercepts, where the likelihood depends on their sum only:

    >>> rng = np.random.default_rng(1)
    >>> a, b = rng.normal(size=(2, 4, 500))
    >>> dims = ("chain", "draw")
    >>> posterior = xr.Dataset({"a": (dims, (a + b) / 2 + 0.5), "b": (dims, (b - a) / 2 + 0.5)})
    >>> checked = check_translations(
    ...     posterior, lambda p: p["a"] + p["b"], {"a": (0, 2**-0.5), "b": (0, 2**-0.5)}
    ... )
    >>> checked.sizes["direction"], bool(checked["p_value"][0] > 0.001)
    (1, True)
    """
    means, sds = _prior_arrays(posterior, prior)
    arrays = {
        name: posterior[name].transpose("chain", "draw", ...).values.astype(float) for name in means
    }
    points = _points(arrays)
    if directions is None:
        found = find_translations(predict, points, sds)
        if not found:
            raise ValueError("there is no translation that leaves all predictions unchanged")
        directions = {f"translation {k + 1}": each for k, each in enumerate(found)}
    rows = []
    for name, direction in directions.items():
        full = _full_direction(name, direction, sds)
        _check_invariant(name, full, predict, points, sds)
        rows.append(compare_moments(_marginal(full, arrays, means, sds)))
    names = xr.DataArray(list(directions), dims="direction", name="direction")
    return xr.concat(rows, names)


def find_translations(
    predict: Callable[[dict[str, np.ndarray]], Any],
    points: Sequence[dict[str, np.ndarray]],
    sds: Mapping[str, np.ndarray],
) -> list[dict[str, np.ndarray]]:
    """Find all translations along which no prediction changes.

    These are the common null space of the Jacobians of the predictions at several points.
    Derivatives are by complex steps if the function is analytic, else by central differences.

    Parameters
    ----------
    predict : callable
        As for `check_translations`.
    points : sequence of dict of str to ndarray
        Draws at which the Jacobians are computed.
    sds : mapping of str to ndarray
        Prior standard deviations: directions are orthogonal in these units, so that the scalars of
        different directions are independent.

    Returns
    -------
    list of dict of str to ndarray
        A basis.

    Raises
    ------
    ValueError
        If there are more than 3000 parameters.
    """
    scale = _flat(sds)
    if scale.size > MAX_PARAMETERS:
        raise ValueError(
            f"translations are searched among at most {MAX_PARAMETERS} parameters, got {scale.size}"
        )
    analytic = _is_analytic(predict, points[0])
    jacobian = _complex_steps if analytic else _central_differences
    stacked = np.concatenate([jacobian(predict, point, scale) for point in points])
    # The null space of J' J is that of J; for more predictions than parameters it is smaller.
    _, values, rows = np.linalg.svd(np.linalg.qr(stacked, mode="r"), full_matrices=True)
    rank = int((values > NULL[analytic] * max(values[0], np.finfo(float).tiny)).sum())
    return [_unflatten(row * scale, points[0]) for row in rows[rank:]]


def _marginal(direction, arrays, means, sds):
    """The scalar of a translation, which is standard normal a priori and a posteriori."""
    norm_squared = sum(((direction[n] / sds[n]) ** 2).sum() for n in direction)
    total = 0.0
    for n in direction:
        terms = direction[n] * (arrays[n] - means[n]) / sds[n] ** 2
        total = total + terms.reshape(*terms.shape[:2], -1).sum(axis=-1)
    draws = xr.DataArray(
        (total / np.sqrt(norm_squared))[..., None], dims=("chain", "draw", "scalar")
    )
    return ExactMarginal(draws, 0.0, 1.0, norm())


def _check_invariant(name, direction, predict, points, sds):
    largest = max(float(np.abs(direction[n] / sds[n]).max()) for n in direction)
    for point in points:
        before = np.asarray(predict(point))
        for size in (-2.0, 2.0):  # prior standard deviations of the variable that moves most
            moved = {n: point[n] + size / largest * direction[n] for n in point}
            after = np.asarray(predict(moved))
            change = np.abs(after - before) / np.maximum(1.0, np.abs(before))
            if not change.max() <= TOLERANCE:
                at = int(np.nanargmax(change))
                raise ValueError(
                    f"{name} is not a symmetry: a shift of {size:+g} prior standard deviations "
                    f"changes a prediction from {before.ravel()[at]:.6g} to {after.ravel()[at]:.6g}"
                )


def _prior_arrays(posterior, prior):
    if not prior:
        raise ValueError("prior must have at least one variable, got none")
    means, sds = {}, {}
    for name, (mean, sd) in prior.items():
        if name not in posterior:
            known = ", ".join(map(str, posterior.data_vars))
            raise ValueError(f"prior names {name}, the variables are {known}")
        shape = posterior[name].transpose("chain", "draw", ...).shape[2:]
        try:
            means[name] = np.broadcast_to(np.asarray(mean, float), shape)
            sds[name] = np.broadcast_to(np.asarray(sd, float), shape)
        except ValueError:
            got = np.shape(mean), np.shape(sd)
            raise ValueError(
                f"the prior of {name} must have shape {shape}, got {got[0]} and {got[1]}"
            ) from None
        if not (np.isfinite(sds[name]).all() and (sds[name] > 0).all()):
            raise ValueError(f"prior standard deviations of {name} must be positive, got {sd}")
    return means, sds


def _full_direction(name, direction, sds):
    unknown = [each for each in direction if each not in sds]
    if unknown:
        raise ValueError(f"{name} changes {', '.join(unknown)}, the prior names {', '.join(sds)}")
    full = {}
    for each, sd in sds.items():
        try:
            value = np.broadcast_to(np.asarray(direction.get(each, 0.0), float), sd.shape)
        except ValueError:
            got = np.shape(direction[each])
            raise ValueError(f"{name} of {each} must have shape {sd.shape}, got {got}") from None
        full[each] = value
    if not any(value.any() for value in full.values()):
        raise ValueError(f"{name} must not be zero")
    return full


def _points(arrays):
    """Some draws, evenly spaced over the chains."""
    n_chain, n_draw = next(iter(arrays.values())).shape[:2]
    at = evenly_spaced(n_chain * n_draw, N_POINTS)
    return [
        {name: each.reshape(-1, *each.shape[2:])[i] for name, each in arrays.items()} for i in at
    ]


def _is_analytic(predict, point):
    """Whether the function takes complex numbers and differentiates like an analytic one."""
    rng = np.random.default_rng(0)
    step = {name: rng.normal(size=value.shape) for name, value in point.items()}
    try:
        by_complex = predict({n: v + 1j * STEP * step[n] for n, v in point.items()})
        slope = np.imag(np.asarray(by_complex, dtype=complex)) / STEP
    except (TypeError, ValueError, np.exceptions.ComplexWarning):
        return False
    h = 1e-6
    above, below = (
        np.asarray(predict({n: v + sign * h * step[n] for n, v in point.items()}))
        for sign in (1, -1)
    )
    difference = (above - below) / (2 * h)
    return bool(np.allclose(slope, difference, rtol=1e-4, atol=1e-6 * (1 + np.abs(slope).max())))


def _complex_steps(predict, point, scale):
    flat = _flat(point).astype(complex)
    columns = []
    for i in range(flat.size):
        moved = flat.copy()
        moved[i] += 1j * STEP * scale[i]
        columns.append(np.asarray(predict(_unflatten(moved, point))).imag.ravel() / STEP)
    return np.stack(columns, axis=1)


def _central_differences(predict, point, scale):
    flat = _flat(point)
    columns = []
    for i in range(flat.size):
        step = np.zeros_like(flat)
        step[i] = RELATIVE_STEP * scale[i]
        ends = [np.asarray(predict(_unflatten(flat + s * step, point))).ravel() for s in (1, -1)]
        columns.append((ends[0] - ends[1]) / (2 * RELATIVE_STEP))
    return np.stack(columns, axis=1)


def _flat(values):
    return np.concatenate([np.ravel(each) for each in values.values()])


def _unflatten(flat, like):
    found, start = {}, 0
    for name, value in like.items():
        found[name] = flat[start : start + value.size].reshape(value.shape)
        start += value.size
    return found
