"""Bring draws to one gauge by symmetries of the posterior alone.

The posterior is invariant under these symmetries, so aligned draws are draws of the same
posterior modulo the group: prior and predictions of every draw stay what they were. The method is
generalised Procrustes analysis (Gower 1975) with matching of heads, hidden units and coordinates
by linear assignment, as weight matching does for trained networks (Ainsworth et al. 2023), around
the geometric median of the draws (Weiszfeld's algorithm), which a chain in another mode does not
pull away.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import permutations
from typing import NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment

from gptbayes.model.forward import Parameters
from gptbayes.model.stages import Stage
from gptbayes.symmetry import actions
from gptbayes.symmetry.generators import head_classes, sizes_of, stream_blocks, symmetries

MAX_BYTES = 128 * 2**20
"""Default bound on what is held beside the draws."""
ENUMERATED = 4
"""Assignments of up to so many items are found by trying all."""
MAX_CANDIDATES = 500
"""Draws among which the first reference is looked for."""
FIRST_STEPS = 10
"""Of the geometric median, before the first iteration."""
ROUNDING = 1e-12


class Alignment(NamedTuple):
    """Aligned draws, and how close they came.

    Attributes
    ----------
    parameters : dict of str to ndarray
        As they went in, transformed.
    reference : dict of str to ndarray
        The geometric median of the aligned draws, without batch dims.
    objective : ndarray, (iteration,)
        Mean distance of a draw to the reference, before the first iteration and after each; it
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
    """Align draws to their own centre.

    The first reference is the draw whose embeddings' inner products, which no symmetry moves, are
    most central. The first pass uses what depends on no later choice of rotations or orders, so
    that the place on its orbit where a draw started does not matter. Every further pass takes the
    parts of the group in turn, the rotation and order of the stream's coordinates, the order of
    heads, the rotations of their query-key and value pairs, the order of hidden units, each at
    its optimum given the others, and keeps what it did to a draw if the draw came closer. Then
    the geometric median of the aligned draws becomes the reference. A local optimum is what this
    finds; where two choices are equally good, the first in the draw's own order is taken.

    Parameters
    ----------
    stage : Stage
        With its masks, in stages 11 and 12: nothing that they tell apart is exchanged.
    parameters : mapping of str to ndarray
        Each ``(*batch, dims of that parameter)``.
    max_iterations : int
    tolerance : float
        Stop when the objective falls by a smaller share than this.
    max_bytes : int
        Rough bound on the memory beyond that of the draws and their aligned copy.

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
    reference = {name: values[_central(draws)] for name, values in draws.items()}
    moves = _moves(stage, reference)
    for chunk in chunks if moves else ():
        _replace(draws, chunk, _turned(moves, _part(draws, chunk), reference, first=True))
    reference = {name: values.mean(axis=0) for name, values in draws.items()}
    distance = _distances(draws, reference, chunks)
    for _ in range(FIRST_STEPS):
        reference, distance = _median_step(draws, reference, distance, chunks)
    objective = [distance.mean()]
    for _ in range(max_iterations if moves else 0):
        for chunk in chunks:
            distance[chunk] = _improve(moves, draws, chunk, reference, distance[chunk])
        reference, distance = _median_step(draws, reference, distance, chunks)
        objective.append(distance.mean())
        if objective[-2] - objective[-1] <= tolerance * objective[-2]:
            break
    restored = {n: values.reshape(*batch, *values.shape[1:]) for n, values in draws.items()}
    return Alignment(restored, reference, np.array(objective))


# Passes over draws.


def _turned(moves, draws, reference, first):
    """One pass over the group, each part at its optimum given the others."""
    for move in moves:
        draws = move(draws, reference, first)
    return draws


def _improve(moves, draws, chunk, reference, before):
    """A pass over some draws, kept where it brought them closer; their distances."""
    old = _part(draws, chunk)
    new = _turned(moves, old, reference, first=False)
    after = _distance(new, reference)
    better = after < before * (1 - ROUNDING)
    for name, values in draws.items():
        lifted = better.reshape(-1, *(1,) * (values.ndim - 1))
        values[chunk] = np.where(lifted, new[name], old[name])
    return np.where(better, after, before)


def _median_step(draws, reference, distance, chunks):
    """One step of Weiszfeld's algorithm, if it brings the draws closer on average."""
    floor = max(1e-3 * np.median(distance), 1e-6 * distance.max(), np.finfo(float).tiny)
    weight = 1 / np.maximum(distance, floor)
    weight /= weight.sum()
    centre = {name: np.tensordot(weight, values, 1) for name, values in draws.items()}
    moved = _distances(draws, centre, chunks)
    return (centre, moved) if moved.mean() <= distance.mean() else (reference, distance)


def _distances(draws, reference, chunks):
    return np.concatenate([_distance(_part(draws, chunk), reference) for chunk in chunks])


def _distance(draws, reference):
    return np.sqrt(
        sum(
            ((values - reference[name]) ** 2).reshape(len(values), -1).sum(axis=1)
            for name, values in draws.items()
        )
    )


def _central(draws):
    """The draw whose embeddings' inner products, which no symmetry moves, are most central."""
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


def _part(draws, chunk):
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


# Moves: functions of draws, reference and whether it is the first pass, that return draws.


def _moves(stage, reference):
    """The parts of a stage's group, in the order in which the first pass can settle them."""
    known, sizes = symmetries(stage), sizes_of(stage, reference)
    moves = []
    if "permute_stream" in known or "flip_stream" in known:
        moves.append(_stream_order(stage, sizes))
    if "rotate_stream" in known:
        moves.append(_stream_rotation(stage, sizes))
    if "permute_heads" in known:
        moves.append(_head_order(stage, sizes))
    if "rotate_query_key" in known:
        moves.append(_query_key_rotation)
    if "rotate_value" in known:
        moves.append(_value_rotation)
    if "permute_hidden" in known:
        moves.append(_hidden_order(stage))
    return moves


def _stream_order(stage, sizes):
    """Order (and sign) of the coordinates of the stream, with the heads that are tied to them."""
    blocks, within = stream_blocks(stage, sizes["embed"], sizes["head"])
    flips = "flip_stream" in symmetries(stage)
    rotates = "rotate_stream" in symmetries(stage)

    def move(draws, reference, first):
        odd, even = _cross_products(stage, draws, reference, settled=first)
        tied = _query_key_gain(draws, reference) if len(blocks) > 1 and not first else 0.0
        order, gain = _block_order(odd + even, blocks, within, tied, rotates)
        if flips:
            opposite, other_gain = _block_order(even - odd, blocks, within, tied, rotates)
            turn = other_gain > gain
            order = np.where(turn[:, None], opposite, order)
            draws = actions.flip_stream(stage, draws, np.where(turn, -1.0, 1.0))
        return actions.permute_stream(stage, draws, order)

    return move


def _block_order(cross, blocks, within, tied, rotates):
    """The best order of coordinates (draw, embed), in blocks, and what it gains (draw,).

    Which coordinate of a block is which is part of it unless they rotate later.
    """
    n_draws, (n, size) = len(cross), within.shape
    pairs = np.moveaxis(cross.reshape(n_draws, n, size, n, size), 2, 3)  # (draw, n, n, k, k)
    same_block = blocks[:, None] == blocks
    inner = np.broadcast_to(np.arange(size), (n_draws, n, n, size))
    if rotates:
        gain = _nuclear_norm(pairs)
    else:
        same = within[:, None, :, None] == within[None, :, None, :]
        inner = _assigned(pairs, same | ~same_block[..., None, None])
        gain = np.take_along_axis(pairs, inner[..., None], axis=-1)[..., 0].sum(axis=-1)
    outer = _assigned(gain + tied, same_block)  # (draw, n)
    total = np.take_along_axis(gain + tied, outer[..., None], axis=-1)[..., 0].sum(axis=-1)
    chosen = np.take_along_axis(inner, outer[..., None, None], axis=2)[:, :, 0]  # (draw, n, k)
    return (outer[..., None] * size + chosen).reshape(n_draws, -1), total


def _stream_rotation(stage, sizes):
    """Orthonormal basis of the stream: one for all, or, where heads write into it, block-wise."""
    tied = actions.heads_write_stream(stage)
    n_block = sizes["head"] if tied else 1

    def move(draws, reference, first):
        odd, even = _cross_products(stage, draws, reference, settled=first)
        n_embed = even.shape[-1]
        size = n_embed // n_block
        rotation = np.zeros_like(even)
        for start in range(0, n_embed, size):
            block = slice(start, start + size)
            cross = (odd + even)[:, block, block]
            rotation[:, block, block] = _polar(np.swapaxes(cross, -1, -2))
        return actions.rotate_stream(stage, draws, rotation)

    return move


def _head_order(stage, sizes):
    labels = head_classes(stage, sizes["layer"], sizes["head"])
    same = labels[:, :, None] == labels[:, None, :]  # (layer, head, head)

    def move(draws, reference, first):
        gain = _query_key_gain(draws, reference, by_layer=True)
        pairs = _value_pair(draws, first), _value_pair(reference, first)
        gain = gain + _nuclear_norm(_crossed(*pairs))
        return actions.permute_heads(draws, _assigned(gain, same))

    return move


def _query_key_rotation(draws, reference, first):
    cross = np.swapaxes(_query_key(draws), -1, -2) @ _query_key(reference)
    return actions.rotate_query_key(draws, _polar(cross))


def _value_rotation(draws, reference, first):
    cross = np.swapaxes(_value_pair(draws, first), -1, -2) @ _value_pair(reference, first)
    return actions.rotate_value(draws, _polar(cross))


def _hidden_order(stage):
    def move(draws, reference, first):
        units = _hidden_units(stage, reference)  # (layer, hidden, what belongs to a unit)
        gain = units @ np.swapaxes(_hidden_units(stage, draws), -1, -2)
        return actions.permute_hidden(stage, draws, _assigned(gain))

    return move


# What is compared: cross products of reference and draws.


def _cross_products(stage, draws, reference, settled):
    """Inner products of the coordinates of the stream, (draw, reference's, draw's), in two parts.

    The first part changes its sign with the stream. In the first pass only what no rotation or
    order but the stream's own can move is compared (``settled``).
    """
    flips = actions.flipped_by_stream(stage)
    n_draws, _, n_embed = draws["token_embedding"].shape
    parts = [np.zeros((n_draws, n_embed, n_embed)) for _ in range(2)]
    views = zip(
        _stream_views(stage, draws, settled), _stream_views(stage, reference, settled), strict=True
    )
    for (name, of_draws), (_, of_reference) in views:
        which = 0 if "layer_norm" in stage.features and name in flips else 1
        parts[which] += of_reference.T @ of_draws  # (C, F) @ (draw, F, C)
    return parts


def _stream_views(stage, parameters, settled):
    """Everything with an axis of the stream, that axis last and all others as one."""
    axes = list(actions.stream_writers(stage))
    axes += [(name, axis) for name, axis, _ in actions.stream_readers(stage)]
    axes += [(f"{norm}_{part}", -1) for norm in actions.norms(stage) for part in ("weight", "bias")]
    for name, axis in axes:
        dims = list(stage.parameter(name).dims)
        del dims[axis]
        if not (settled and {"hidden", "head", "head_dim", "embed"} & set(dims)):
            yield name, _rows(np.moveaxis(parameters[name], axis, -1), len(dims) + 1)
    if actions.heads_write_stream(stage) and not settled:
        yield "value", _rows(actions.side_by_side(parameters["value"]), 3)


def _rows(values, n_dims):
    batch = values.shape[: values.ndim - n_dims]
    return values.reshape(*batch, math.prod(values.shape[len(batch) : -1]), values.shape[-1])


def _query_key(parameters):
    """What turns with a head's query-key rotation, (..., layer, head, 2 embed, head_dim)."""
    return np.concatenate([parameters["query"], parameters["key"]], axis=-2)


def _value_pair(parameters, settled):
    """What turns with a head's value rotation, (..., layer, head, embed + row, head_dim).

    The hidden units that read the heads of stage 06 have no settled order in the first pass.
    """
    by_units = "feed_forward_multiplier" in parameters and "sa_proj_multiplier" not in parameters
    if settled and by_units:
        return parameters["value"]
    return np.concatenate([parameters["value"], actions.head_readers(parameters)], axis=-2)


def _query_key_gain(draws, reference, by_layer=False):
    """What matching heads gains after the best rotation of each, (draw, [layer,] head, head)."""
    gain = _nuclear_norm(_crossed(_query_key(draws), _query_key(reference)))
    return gain if by_layer else gain.sum(axis=1)


def _crossed(draws, reference):
    """Cross products of all pairs of heads, (draw, layer, reference's, draw's, h, h)."""
    return np.swapaxes(reference, -1, -2)[:, :, None] @ draws[:, :, None]


def _hidden_units(stage, parameters):
    """All that belongs to a hidden unit, (..., layer, hidden, F)."""
    sent = parameters[actions.hidden_readers(stage)]
    if actions.hidden_readers(stage) == "lm_head_multiplier":
        sent = sent[..., None, :, :]
    received = parameters["feed_forward_multiplier"], parameters["feed_forward_offset"][..., None]
    return np.concatenate([*received, np.swapaxes(sent, -1, -2)], axis=-1)


# Linear algebra and assignment, batched.


def _polar(cross):
    """The orthogonal matrix with the largest trace against ``cross``, (..., k, k)."""
    left, _, right = np.linalg.svd(cross)
    return left @ right


def _nuclear_norm(matrices):
    return np.linalg.svd(matrices, compute_uv=False).sum(axis=-1)


def _assigned(gain, allowed=None):
    """The assignment of columns to rows, (..., k), that gains most.

    Parameters
    ----------
    gain : ndarray, (..., k, k)
    allowed : ndarray of bool, (..., k, k), optional
        Broadcasts against the gain; some assignment must be allowed.
    """
    k = gain.shape[-1]
    if allowed is not None and not allowed.all():
        penalty = 1 + 2 * k * np.abs(gain).max()
        gain = np.where(allowed, gain, -penalty)
    flat = gain.reshape(-1, k, k)
    if k <= ENUMERATED:
        orders = np.array(list(permutations(range(k))))
        total = sum(flat[:, i, orders[:, i]] for i in range(k))  # (draw, order)
        return orders[total.argmax(axis=1)].reshape(*gain.shape[:-1])
    best = flat.argmax(axis=-1)
    clash = (np.sort(best, axis=-1) != np.arange(k)).any(axis=-1)
    for i in np.flatnonzero(clash):  # elsewhere every row has what it likes best
        best[i] = linear_sum_assignment(flat[i], maximize=True)[1]
    return best.reshape(*gain.shape[:-1])
