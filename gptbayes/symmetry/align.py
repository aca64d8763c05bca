"""Bring draws to one gauge by symmetries of the posterior alone.

The posterior is invariant under these symmetries, so aligned draws are draws of the same
posterior modulo the group: prior and predictions of every draw stay what they were. The method is
generalised Procrustes analysis (Gower 1975) with head matching by linear assignment, as weight
matching does for trained networks (Ainsworth et al. 2023).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment

from gptbayes.forward import Parameters
from gptbayes.stages import Stage
from gptbayes.symmetry.actions import (
    head_readout,
    permute_heads,
    rotate_query_key,
    rotate_stream,
    rotate_value,
    symmetries,
)


class Alignment(NamedTuple):
    """Aligned draws, and how close they came.

    Attributes
    ----------
    parameters : dict of str to ndarray
        As they went in, transformed.
    reference : dict of str to ndarray
        The mean of the aligned draws, without batch dims.
    objective : ndarray, (iteration,)
        Mean squared distance of a draw to the reference, before the first iteration and after
        each; it never increases.
    """

    parameters: dict[str, np.ndarray]
    reference: dict[str, np.ndarray]
    objective: np.ndarray


def align(
    stage: Stage, parameters: Parameters, *, max_iterations: int = 100, tolerance: float = 1e-5
) -> Alignment:
    """Align draws to their own mean, starting from the most central draw.

    Every step, the rotation of the stream, of each head's query-key and value pair, and the
    order of the heads, minimises the distance to the reference given the others; then the mean
    of the aligned draws becomes the reference. A local optimum is what this finds.

    Parameters
    ----------
    stage : Stage
    parameters : mapping of str to ndarray
        Each ``(*batch, dims of that parameter)``.
    max_iterations : int
    tolerance : float
        Stop when the objective falls by a smaller share than this.

    Returns
    -------
    Alignment
    """
    names = [p.name for p in stage.parameters]
    n_dims = len(stage.parameters[0].dims)
    batch = parameters[names[0]].shape[:-n_dims]
    draws = {n: parameters[n].reshape(-1, *parameters[n].shape[len(batch) :]) for n in names}
    reference = {name: draws[name][_central(draws)] for name in names}
    if symmetries(stage):
        draws = _step(stage, draws, reference)
    reference = {name: value.mean(axis=0) for name, value in draws.items()}
    objective = [_objective(draws, reference)]
    for _ in range(max_iterations if symmetries(stage) else 0):
        draws = _step(stage, draws, reference)
        reference = {name: value.mean(axis=0) for name, value in draws.items()}
        objective.append(_objective(draws, reference))
        if objective[-2] - objective[-1] <= tolerance * objective[-2]:
            break
    restored = {n: value.reshape(*batch, *value.shape[1:]) for n, value in draws.items()}
    return Alignment(restored, reference, np.array(objective))


def _step(stage, draws, reference):
    """One pass over the group, each part at its optimum given the others."""
    actions = symmetries(stage)
    if "permute_heads" in actions:
        draws = permute_heads(draws, _head_order(draws, reference))
    if "rotate_query_key" in actions:
        rotation = _procrustes(_query_key(draws), _query_key(reference))
        draws = rotate_query_key(draws, rotation)
    if "rotate_value" in actions:
        rotation = _procrustes(_value_readout(draws), _value_readout(reference))
        draws = rotate_value(draws, rotation[:, None])
    if "rotate_stream" in actions:
        rotation = _procrustes(_stream_rows(stage, draws), _stream_rows(stage, reference))
        draws = rotate_stream(stage, draws, rotation)
    return draws


def _procrustes(source, target):
    """The orthogonal matrix, (..., k, k), that brings source (..., n, k) closest to target."""
    left, _, right = np.linalg.svd(np.swapaxes(source, -1, -2) @ target)
    return left @ right


def _head_order(draws, reference):
    """Which head of a draw plays the part of each head of the reference, (draw, head).

    Minimises the squared distance that remains after the best rotations of either pair, which
    depends on the draw's heads through the nuclear norms of the cross products.
    """
    gain = sum(
        np.linalg.svd(_cross(pair(reference), pair(draws)), compute_uv=False).sum(axis=-1)
        for pair in (_first_query_key, _value_readout)
    )  # (draw, reference head, head)
    return np.array([linear_sum_assignment(each, maximize=True)[1] for each in gain])


def _cross(reference, draws):
    return np.einsum("ink,djnl->dijkl", reference, draws)


def _query_key(parameters):
    """What turns with a head's query-key rotation, (..., layer, head, 2 embed, head_dim)."""
    return np.concatenate([parameters["query"], parameters["key"]], axis=-2)


def _first_query_key(parameters):
    return _query_key(parameters)[..., 0, :, :, :]


def _value_readout(parameters):
    """What turns with a head's value rotation, (..., head, embed + token, head_dim)."""
    pair = [parameters["value"][..., 0, :, :, :], head_readout(parameters)]
    return np.concatenate(pair, axis=-2)


def _stream_rows(stage, parameters):
    """What turns with the stream, one row each, (..., rows, embed)."""
    rows = [parameters[n] for n in ("token_embedding", "position_embedding") if n in parameters]
    if "attention" not in stage.features:
        return np.concatenate([*rows, parameters["lm_head_multiplier"]], axis=-2)
    for name in ("key", "query", "value"):
        readers = np.moveaxis(parameters[name][..., 0, :, :, :], -2, -1)  # (..., H, h, C)
        rows.append(readers.reshape(*readers.shape[:-3], -1, readers.shape[-1]))
    return np.concatenate(rows, axis=-2)


def _central(draws):
    """The draw whose embeddings' inner products, which no symmetry moves, are most central."""
    embedding = draws["token_embedding"]
    if "position_embedding" in draws:
        embedding = np.concatenate([embedding, draws["position_embedding"]], axis=-2)
    gram = embedding @ np.swapaxes(embedding, -1, -2)
    distance = ((gram - np.median(gram, axis=0)) ** 2).sum(axis=(-1, -2))
    return int(np.argmin(distance))


def _objective(draws, reference):
    return float(
        sum(
            ((draws[name] - reference[name]) ** 2).sum(axis=tuple(range(1, draws[name].ndim)))
            for name in draws
        ).mean()
    )
