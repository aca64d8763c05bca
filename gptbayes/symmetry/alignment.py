"""Align draws by a compact group that leaves the posterior unchanged.

The posterior is invariant under such a group, so aligned draws are draws from the same posterior
modulo the group: alignment changes neither the prior density nor the predictions of a draw. The
method is generalised Procrustes analysis (Gower 1975). Items are matched by linear assignment, as
in weight matching of trained networks (Ainsworth et al. 2023) and in relabelling of mixtures
(Stephens 2000). The reference is the geometric median of the draws (Weiszfeld's algorithm), which
is robust to a chain in another mode.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import numpy as np

from gptbayes.model.forward import Parameters
from gptbayes.model.stages import Stage
from gptbayes.stats.blocks import THREADS, in_threads
from gptbayes.symmetry.group.axes import sizes_of
from gptbayes.symmetry.group.compact import stage_group, stage_layout
from gptbayes.symmetry.group.embeddings import embedding_rows
from gptbayes.symmetry.layout import Draws, Layout
from gptbayes.symmetry.procrustes import largest_cross_product, updates_towards

MAX_BYTES = 128 * 2**20
"""Default bound on the memory used beside the draws."""
MAX_CANDIDATES = 500
"""Number of draws among which the first reference is chosen."""
MAX_ROWS = 60
"""Number of rows of each set of variables whose inner products choose the first reference."""
MEDIAN_STEPS = 10
"""Steps of Weiszfeld's algorithm before the first iteration."""
TOLERANCE = 1e-4
"""A tenth of this tolerance takes five times as many passes at stage 12 with contexts of 32. The
additional passes reorder nearly equal hidden units, and change hardly any R-hat
(`tests/performance/alignment.py --run`)."""
ROUNDING = 1e-12
"""A relative decrease in distance smaller than this is rounding error."""


class Alignment(NamedTuple):
    """Aligned draws and their reference.

    Attributes
    ----------
    parameters : dict of str to ndarray
        The aligned draws, with the shapes of the input.
    reference : dict of str to ndarray
        The geometric median of the aligned draws, without batch dims.
    objective : ndarray, (iteration,)
        Mean distance of a draw to the reference, before the first iteration and after each. It
        never increases.
    """

    parameters: dict[str, np.ndarray]
    reference: dict[str, np.ndarray]
    objective: np.ndarray


def align(
    stage: Stage,
    parameters: Parameters,
    *,
    max_iterations: int = 100,
    tolerance: float = TOLERANCE,
    max_bytes: int = MAX_BYTES,
) -> Alignment:
    """Align draws of a stage to their geometric median.

    The first reference is the draw whose inner products of embeddings, which no symmetry changes,
    are most central.

    Parameters
    ----------
    stage : Stage
        In stages 11 and 12 with its masks: only parts with equal masks are exchanged.
    parameters : mapping of str to ndarray
        Each ``(*batch, dims of that parameter)``.
    max_iterations, tolerance, max_bytes
        As for `align_draws`.

    Returns
    -------
    Alignment

    Raises
    ------
    ValueError
        If there are no draws, or some are not finite.

    See Also
    --------
    align_draws : The same for any compact group.
    gptbayes.align : The same for the draws of any model.
    """
    names = [p.name for p in stage.parameters]
    n_dims = len(stage.parameters[0].dims)
    batch = parameters[names[0]].shape[: parameters[names[0]].ndim - n_dims]
    draws = {n: parameters[n].reshape(-1, *parameters[n].shape[len(batch) :]) for n in names}
    has_group = stage_group(stage) is not None
    found = align_draws(
        stage_layout(stage, sizes_of(stage, parameters)) if has_group else None,
        draws,
        invariants=_inner_products_of_embeddings,
        max_iterations=max_iterations,
        tolerance=tolerance,
        max_bytes=max_bytes,
    )
    restored = {n: v.reshape(*batch, *v.shape[1:]) for n, v in found.parameters.items()}
    return found._replace(parameters=restored)


def align_draws(
    layout: Layout | None,
    draws: Draws,
    *,
    invariants: Callable[[Draws], np.ndarray] | None = None,
    max_iterations: int = 100,
    tolerance: float = TOLERANCE,
    max_bytes: int = MAX_BYTES,
) -> Alignment:
    """Align draws to their geometric median by a compact group.

    The first reference is the draw whose invariants are most central. The first pass compares only
    variables that no later part of the group changes, so that the result does not depend on the
    position of a draw on its orbit. Every further pass optimizes over the parts of the group in
    turn, each given the others. A draw keeps the result of a pass if it is closer to the reference.
    The geometric median of the aligned draws is the next reference. The optimum is local. Ties are
    broken in favor of the first candidate.

    Parameters
    ----------
    layout : Layout or None
        With None the draws are returned unchanged.
    draws : mapping of str to ndarray, (draw, dims of that variable)
        Variables of the group, and others, which contribute to the distance.
    invariants : callable, optional
        Takes draws and returns functions that the group does not change, ndarray (draw, ...). By
        default `inner_products`.
    max_iterations : int
    tolerance : float
        Stop when the relative decrease of the objective is smaller than this.
    max_bytes : int
        Rough bound on the memory in addition to the draws and their aligned copy.

    Returns
    -------
    Alignment

    Raises
    ------
    ValueError
        If there are no draws, or some are not finite.
    """
    shapes = {name: np.shape(values)[1:] for name, values in draws.items()}
    draws = {name: np.array(values, dtype=float) for name, values in draws.items()}
    _check(draws)
    chosen = _most_central_draw(draws, invariants or (lambda d: inner_products(layout, d)))
    updates = []
    if layout is not None:
        draws.update(layout.split_blocks(draws))
        updates = updates_towards(layout)
    chunks = list(_chunks(draws, layout, max_bytes))
    reference = {name: values[chosen].copy() for name, values in draws.items()}
    if updates:
        in_threads(partial(_first_pass, updates, draws, reference), chunks)
    reference = {name: values.mean(axis=0) for name, values in draws.items()}
    distance = _distances(draws, reference, chunks)
    for _ in range(MEDIAN_STEPS):
        reference, distance = _median_step(draws, reference, distance, chunks)
    objective = [distance.mean()]
    for _ in range(max_iterations if updates else 0):
        found = partial(_pass_if_closer, updates, draws, reference, distance)
        distance = np.concatenate(in_threads(found, chunks))
        reference, distance = _median_step(draws, reference, distance, chunks)
        objective.append(distance.mean())
        if objective[-2] - objective[-1] <= tolerance * objective[-2]:
            break
    joined = {n: values.reshape(len(values), *shapes[n]) for n, values in draws.items()}
    reference = {n: values.reshape(shapes[n]) for n, values in reference.items()}
    return Alignment(joined, reference, np.array(objective))


def match_draws(layout: Layout, draws: Draws, reference: Draws, *, passes: int = 20) -> dict:
    """Move every draw to the point of its orbit that is closest to a given reference.

    Parameters
    ----------
    layout : Layout
    draws : mapping of str to ndarray, (draw, dims of that variable)
    reference : mapping of str to ndarray, (dims of that variable)
    passes : int
        Maximum number of passes over the parts of the group.

    Returns
    -------
    dict of str to ndarray
        The optimum is local. No draw is farther from the reference than before.

    Raises
    ------
    ValueError
        If there are no draws, or some are not finite.
    """
    shapes = {name: np.shape(values)[1:] for name, values in draws.items()}
    draws = {name: np.array(values, dtype=float) for name, values in draws.items()}
    _check(draws)
    draws.update(layout.split_blocks(draws))
    target = {
        n: np.asarray(v, dtype=float).reshape(draws[n].shape[1:]) for n, v in reference.items()
    }
    updates, everything = updates_towards(layout), slice(None)
    distance = _distance(draws, target)
    moved = _one_pass(updates, draws, target, first=True)
    closer = _distance(moved, target) < distance
    draws = {n: np.where(_like(closer, v), moved[n], v) for n, v in draws.items()}
    distance = _distance(draws, target)
    for _ in range(passes):
        before = distance.copy()
        distance = _pass_if_closer(updates, draws, target, distance, everything)
        if (distance == before).all():
            break
    return {n: values.reshape(len(values), *shapes[n]) for n, values in draws.items()}


def inner_products(layout: Layout | None, draws: Draws) -> np.ndarray:
    """Compute inner products over the axes on which a group acts, which no element changes.

    The rows of all variables on which the same parts act in the same way are multiplied with each
    other.

    Parameters
    ----------
    layout : Layout or None
    draws : mapping of str to ndarray, (draw, dims of that variable)

    Returns
    -------
    ndarray, (draw, product)
    """
    rows: dict = {}
    for name, values in draws.items():
        if layout is None or name not in layout.shapes:
            rows[name] = [values.reshape(len(values), -1, 1)]
            continue
        key, axes = _acted_axes(layout, name)
        split = values.reshape(len(values), *layout.split[name])
        rest = [axis for axis in range(1, split.ndim) if axis - split.ndim not in axes]
        moved = split.transpose(0, *rest, *(split.ndim + axis for axis in axes))
        n_rest = int(np.prod([split.shape[axis] for axis in rest]))
        rows.setdefault(key, []).append(moved.reshape(len(values), n_rest, -1))
    found = []
    for each in rows.values():
        whole = np.concatenate(each, axis=1)
        some = np.unique(
            np.linspace(0, whole.shape[1] - 1, min(whole.shape[1], MAX_ROWS)).astype(int)
        )
        if whole.shape[2] == 1:
            found.append(whole[:, some, 0])
            continue
        gram = whole[:, some] @ np.swapaxes(whole[:, some], -1, -2)
        upper = np.triu_indices(len(some))
        found.append(gram[:, upper[0], upper[1]])
    return np.concatenate(found, axis=1)


def _acted_axes(layout, name):
    """Which parts act on a variable, for comparison with others, and all axes of their paths."""
    key: list = []
    axes: list[int] = []
    for k, placed in enumerate(layout.parts):
        for site in placed.sites:
            if site.variable != name:
                continue
            key.append(k)
            axes += [axis for axis in site.axes if axis is not None and axis not in axes]
    lengths = tuple(layout.split[name][axis] for axis in axes)
    return (tuple(key), lengths), axes


def _inner_products_of_embeddings(draws):
    rows = embedding_rows(draws)
    gram = rows @ np.swapaxes(rows, -1, -2)
    return gram.reshape(len(gram), -1)


# Passes over draws.


def _one_pass(updates, draws, reference, first):
    """One pass over the group, each part at its optimum given the others."""
    for update in updates:
        draws = update(draws, reference, first)
    return draws


def _first_pass(updates, draws, reference, chunk):
    """Apply a pass to the draws of a chunk."""
    new = _one_pass(updates, _select(draws, chunk), reference, first=True)
    for name, values in draws.items():
        values[chunk] = new[name]


def _pass_if_closer(updates, draws, reference, distance, chunk):
    """Apply a pass to the draws of a chunk that it brings closer; return the distances of all."""
    before, old = distance[chunk], _select(draws, chunk)
    new = _one_pass(updates, old, reference, first=False)
    after = _distance(new, reference)
    better = after < before * (1 - ROUNDING)
    for name, values in draws.items():
        values[chunk] = np.where(_like(better, values), new[name], old[name])
    return np.where(better, after, before)


def _like(flags, values):
    return flags.reshape(-1, *(1,) * (values.ndim - 1))


def _median_step(draws, reference, distance, chunks):
    """One step of Weiszfeld's algorithm, if it lowers the mean distance."""
    if not distance.any():
        return reference, distance
    floor = max(1e-3 * np.median(distance), 1e-6 * distance.max())
    weight = 1 / np.maximum(distance, floor)
    weight /= weight.sum()
    centre = {name: np.tensordot(weight, values, 1) for name, values in draws.items()}
    moved = _distances(draws, centre, chunks)
    return (centre, moved) if moved.mean() <= distance.mean() else (reference, distance)


def _distances(draws, reference, chunks):
    return np.concatenate(
        in_threads(lambda chunk: _distance(_select(draws, chunk), reference), chunks)
    )


def _distance(draws, reference):
    total = 0.0
    for name, values in draws.items():
        difference = (values - reference[name]).reshape(len(values), -1)
        total = total + np.einsum("ni,ni->n", difference, difference)
    return np.sqrt(total)


def _most_central_draw(draws, invariants):
    """Index of the draw whose invariants are closest to their median."""
    n_draws = len(next(iter(draws.values())))
    some = np.unique(np.linspace(0, n_draws - 1, min(n_draws, MAX_CANDIDATES)).astype(int))
    values = invariants(_select(draws, some))
    distance = ((values - np.median(values, axis=0)) ** 2).sum(axis=-1)
    return int(some[np.argmin(distance)])


def _chunks(draws, layout, max_bytes) -> Iterator[slice]:
    n_draws = len(next(iter(draws.values())))
    n_parameters = sum(values[0].size for values in draws.values())
    n_cross = largest_cross_product(layout) if layout is not None else 0
    at_most = int(max_bytes // (8 * (10 * n_parameters + 4 * n_cross) * THREADS))
    size = max(1, min(at_most, -(-n_draws // THREADS)))
    for start in range(0, n_draws, size):
        yield slice(start, start + size)


def _select(draws, chunk):
    return {name: values[chunk] for name, values in draws.items()}


def _check(draws):
    if not len(next(iter(draws.values()))):
        raise ValueError("parameters must have at least one draw, got none")
    for name, values in draws.items():
        if not np.isfinite(values).all():
            raise ValueError(f"parameters must be finite, got {name} with nan or infinity")
