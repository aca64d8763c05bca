"""Align draws by the symmetries of the posterior.

The posterior is invariant under these symmetries, so aligned draws are draws from the same
posterior modulo the group: alignment changes neither the prior density nor the predictions of a
draw. The method is generalised Procrustes analysis (Gower 1975). Heads, hidden units and
coordinates are matched by linear assignment, as in weight matching of trained networks (Ainsworth
et al. 2023). The reference is the geometric median of the draws (Weiszfeld's algorithm), which is
robust to a chain in another mode.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from gptbayes.model.forward import Parameters
from gptbayes.model.stages import Stage
from gptbayes.symmetry.procrustes import updates_towards

MAX_BYTES = 128 * 2**20
"""Default bound on the memory used beside the draws."""
MAX_CANDIDATES = 500
"""Number of draws among which the first reference is chosen."""
MEDIAN_STEPS = 10
"""Steps of Weiszfeld's algorithm before the first iteration."""
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
    tolerance: float = 1e-5,
    max_bytes: int = MAX_BYTES,
) -> Alignment:
    """Align draws to their geometric median.

    The first reference is the draw whose inner products of embeddings, which no symmetry changes,
    are most central. The first pass compares only weights that no later permutation or rotation
    changes, so that the result does not depend on where on its orbit a draw started. Every further
    pass optimises the parts of the group in turn, each given the others: rotation and permutation
    of the residual stream, permutation of heads, rotations of queries with keys and of values,
    permutation of hidden units. A draw keeps the result of a pass if it moved closer to the
    reference. The geometric median of the aligned draws is the next reference. The optimum is a
    local one. Ties are broken in favour of the first candidate.

    Parameters
    ----------
    stage : Stage
        In stages 11 and 12 with its masks: only parts with equal masks are exchanged.
    parameters : mapping of str to ndarray
        Each ``(*batch, dims of that parameter)``.
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
    names = [p.name for p in stage.parameters]
    n_dims = len(stage.parameters[0].dims)
    batch = parameters[names[0]].shape[: parameters[names[0]].ndim - n_dims]
    draws = {n: parameters[n].reshape(-1, *parameters[n].shape[len(batch) :]) for n in names}
    draws = {name: np.array(values, dtype=float) for name, values in draws.items()}
    _check(draws)
    chunks = list(_chunks(draws, max_bytes))
    reference = {name: values[_most_central_draw(draws)] for name, values in draws.items()}
    updates = updates_towards(stage, reference)
    for chunk in chunks if updates else ():
        _replace(draws, chunk, _one_pass(updates, _select(draws, chunk), reference, first=True))
    reference = {name: values.mean(axis=0) for name, values in draws.items()}
    distance = _distances(draws, reference, chunks)
    for _ in range(MEDIAN_STEPS):
        reference, distance = _median_step(draws, reference, distance, chunks)
    objective = [distance.mean()]
    for _ in range(max_iterations if updates else 0):
        for chunk in chunks:
            distance[chunk] = _pass_if_closer(updates, draws, chunk, reference, distance[chunk])
        reference, distance = _median_step(draws, reference, distance, chunks)
        objective.append(distance.mean())
        if objective[-2] - objective[-1] <= tolerance * objective[-2]:
            break
    restored = {n: values.reshape(*batch, *values.shape[1:]) for n, values in draws.items()}
    return Alignment(restored, reference, np.array(objective))


# Passes over draws.


def _one_pass(updates, draws, reference, first):
    """One pass over the group, each part at its optimum given the others."""
    for update in updates:
        draws = update(draws, reference, first)
    return draws


def _pass_if_closer(updates, draws, chunk, reference, before):
    """Apply a pass to the draws that it brings closer; return the distances of all."""
    old = _select(draws, chunk)
    new = _one_pass(updates, old, reference, first=False)
    after = _distance(new, reference)
    better = after < before * (1 - ROUNDING)
    for name, values in draws.items():
        expanded = better.reshape(-1, *(1,) * (values.ndim - 1))
        values[chunk] = np.where(expanded, new[name], old[name])
    return np.where(better, after, before)


def _median_step(draws, reference, distance, chunks):
    """One step of Weiszfeld's algorithm, if it lowers the mean distance."""
    floor = max(1e-3 * np.median(distance), 1e-6 * distance.max(), np.finfo(float).tiny)
    weight = 1 / np.maximum(distance, floor)
    weight /= weight.sum()
    centre = {name: np.tensordot(weight, values, 1) for name, values in draws.items()}
    moved = _distances(draws, centre, chunks)
    return (centre, moved) if moved.mean() <= distance.mean() else (reference, distance)


def _distances(draws, reference, chunks):
    return np.concatenate([_distance(_select(draws, chunk), reference) for chunk in chunks])


def _distance(draws, reference):
    return np.sqrt(
        sum(
            ((values - reference[name]) ** 2).reshape(len(values), -1).sum(axis=1)
            for name, values in draws.items()
        )
    )


def _most_central_draw(draws):
    """Index of the draw whose inner products of embeddings are closest to their median."""
    n_draws = len(draws["token_embedding"])
    some = np.unique(np.linspace(0, n_draws - 1, min(n_draws, MAX_CANDIDATES)).astype(int))
    rows = [draws[n][some] for n in ("token_embedding", "position_embedding") if n in draws]
    embedding = np.concatenate(rows, axis=-2)
    gram = embedding @ np.swapaxes(embedding, -1, -2)
    distance = ((gram - np.median(gram, axis=0)) ** 2).sum(axis=(-1, -2))
    return int(some[np.argmin(distance)])


def _chunks(draws, max_bytes) -> Iterator[slice]:
    n_draws = len(draws["token_embedding"])
    n_parameters = sum(values[0].size for values in draws.values())
    n_hidden = draws["feed_forward_offset"][0].size if "feed_forward_offset" in draws else 0
    size = max(1, int(max_bytes // (8 * (10 * n_parameters + 4 * n_hidden**2))))
    for start in range(0, n_draws, size):
        yield slice(start, start + size)


def _select(draws, chunk):
    return {name: values[chunk] for name, values in draws.items()}


def _replace(draws, chunk, new):
    for name, values in draws.items():
        values[chunk] = new[name]


def _check(draws):
    if not len(draws["token_embedding"]):
        raise ValueError("parameters must have at least one draw, got none")
    for name, values in draws.items():
        if not np.isfinite(values).all():
            raise ValueError(f"parameters must be finite, got {name} with nan or infinity")
