"""Move draws towards a reference by one part of the symmetry group at a time.

Rotations solve the orthogonal Procrustes problem, permutations a linear assignment problem. Each
update is the optimum over its part of the group, given the other parts.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import permutations

import numpy as np
from scipy.optimize import linear_sum_assignment

from gptbayes.model.forward import Parameters
from gptbayes.model.stages import Stage
from gptbayes.symmetry.group.architecture import (
    heads_write_stream,
    hidden_reader,
    layer_norms,
    stream_readers,
    stream_writers,
)
from gptbayes.symmetry.group.axes import concatenate_heads, sizes_of
from gptbayes.symmetry.group.heads import (
    head_readers,
    permute_heads,
    rotate_query_key,
    rotate_value,
)
from gptbayes.symmetry.group.hidden_units import permute_hidden
from gptbayes.symmetry.group.masks import head_classes, stream_blocks
from gptbayes.symmetry.group.stream import (
    flip_stream,
    flipped_by_stream,
    permute_stream,
    rotate_stream,
)
from gptbayes.symmetry.group.table import symmetries

ENUMERATED = 4
"""Assignments of up to this many items are found by enumeration."""

Update = Callable[[Parameters, Parameters, bool], dict[str, np.ndarray]]
"""``update(draws, reference, first)`` returns the moved draws, each ``(draw, dims)``.

In the first pass only weights that no later update changes are compared.
"""


def updates_towards(stage: Stage, reference: Parameters) -> list[Update]:
    """Updates that bring draws closer to a reference, one per part of the symmetry group.

    Parameters
    ----------
    stage : Stage
    reference : mapping of str to ndarray
        One draw, each ``(dims of that parameter)``.

    Returns
    -------
    list of callable
        ``update(draws, reference, first)``, see `Update`, in the order that the first pass needs.
    """
    known, sizes = symmetries(stage), sizes_of(stage, reference)
    updates = []
    if "permute_stream" in known or "flip_stream" in known:
        updates.append(_stream_permutation(stage, sizes))
    if "rotate_stream" in known:
        updates.append(_stream_rotation(stage, sizes))
    if "permute_heads" in known:
        updates.append(_head_permutation(stage, sizes))
    if "rotate_query_key" in known:
        updates.append(_query_key_rotation)
    if "rotate_value" in known:
        updates.append(_value_rotation)
    if "permute_hidden" in known:
        updates.append(_hidden_permutation(stage))
    return updates


def _stream_permutation(stage, sizes):
    """Permutation (and sign) of the residual stream, with the heads that write to it."""
    blocks, within = stream_blocks(stage, sizes["embed"], sizes["head"])
    flips = "flip_stream" in symmetries(stage)
    rotates = "rotate_stream" in symmetries(stage)

    def update(draws, reference, first):
        signed, unsigned = _cross_products(stage, draws, reference, stream_only=first)
        head_gain = _query_key_gain(draws, reference) if len(blocks) > 1 and not first else 0.0
        order, gain = _best_block_permutation(signed + unsigned, blocks, within, head_gain, rotates)
        if flips:
            opposite, other_gain = _best_block_permutation(
                unsigned - signed, blocks, within, head_gain, rotates
            )
            flip = other_gain > gain
            order = np.where(flip[:, None], opposite, order)
            draws = flip_stream(stage, draws, np.where(flip, -1.0, 1.0))
        return permute_stream(stage, draws, order)

    return update


def _best_block_permutation(cross, blocks, within, head_gain, rotates):
    """The best permutation of coordinates (draw, embed), in blocks, and its gain (draw,).

    Coordinates within a block are not permuted if a rotation follows.
    """
    n_draws, (n, size) = len(cross), within.shape
    pairs = np.moveaxis(cross.reshape(n_draws, n, size, n, size), 2, 3)  # (draw, n, n, k, k)
    same_block = blocks[:, None] == blocks
    inner = np.broadcast_to(np.arange(size), (n_draws, n, n, size))
    if rotates:
        gain = _nuclear_norm(pairs)
    else:
        same = within[:, None, :, None] == within[None, :, None, :]
        inner = _best_assignment(pairs, same | ~same_block[..., None, None])
        gain = np.take_along_axis(pairs, inner[..., None], axis=-1)[..., 0].sum(axis=-1)
    outer = _best_assignment(gain + head_gain, same_block)  # (draw, n)
    total = np.take_along_axis(gain + head_gain, outer[..., None], axis=-1)[..., 0].sum(axis=-1)
    chosen = np.take_along_axis(inner, outer[..., None, None], axis=2)[:, :, 0]  # (draw, n, k)
    return (outer[..., None] * size + chosen).reshape(n_draws, -1), total


def _stream_rotation(stage, sizes):
    """Rotation of the residual stream: one, or one per head where heads write to it."""
    n_block = sizes["head"] if heads_write_stream(stage) else 1

    def update(draws, reference, first):
        signed, unsigned = _cross_products(stage, draws, reference, stream_only=first)
        n_embed = unsigned.shape[-1]
        size = n_embed // n_block
        rotation = np.zeros_like(unsigned)
        for start in range(0, n_embed, size):
            block = slice(start, start + size)
            cross = (signed + unsigned)[:, block, block]
            rotation[:, block, block] = _procrustes_rotation(np.swapaxes(cross, -1, -2))
        return rotate_stream(stage, draws, rotation)

    return update


def _head_permutation(stage, sizes):
    labels = head_classes(stage, sizes["layer"], sizes["head"])
    same = labels[:, :, None] == labels[:, None, :]  # (layer, head, head)

    def update(draws, reference, first):
        gain = _query_key_gain(draws, reference, by_layer=True)
        pairs = _value_weights(draws, first), _value_weights(reference, first)
        gain = gain + _nuclear_norm(_cross_products_of_heads(*pairs))
        return permute_heads(draws, _best_assignment(gain, same))

    return update


def _query_key_rotation(draws, reference, first):
    cross = np.swapaxes(_query_key_weights(draws), -1, -2) @ _query_key_weights(reference)
    return rotate_query_key(draws, _procrustes_rotation(cross))


def _value_rotation(draws, reference, first):
    cross = np.swapaxes(_value_weights(draws, first), -1, -2) @ _value_weights(reference, first)
    return rotate_value(draws, _procrustes_rotation(cross))


def _hidden_permutation(stage):
    def update(draws, reference, first):
        units = _hidden_units(stage, reference)  # (layer, hidden, F)
        gain = units @ np.swapaxes(_hidden_units(stage, draws), -1, -2)
        return permute_hidden(stage, draws, _best_assignment(gain))

    return update


# Cross products of reference and draws.


def _cross_products(stage, draws, reference, stream_only):
    """Inner products of coordinates of the residual stream, (draw, reference's, draw's).

    In two parts: the first changes sign with the residual stream. The first pass compares only
    weights that no other symmetry changes (``stream_only``).
    """
    flips = flipped_by_stream(stage)
    n_draws, _, n_embed = draws["token_embedding"].shape
    parts = [np.zeros((n_draws, n_embed, n_embed)) for _ in range(2)]
    views = zip(
        _stream_views(stage, draws, stream_only),
        _stream_views(stage, reference, stream_only),
        strict=True,
    )
    for (name, ours), (_, theirs) in views:
        which = 0 if "layer_norm" in stage.features and name in flips else 1
        parts[which] += theirs.T @ ours  # (C, F) @ (draw, F, C)
    return parts


def _stream_views(stage, parameters, stream_only):
    """Weights with an axis of the residual stream, that axis last and all others flattened."""
    axes = list(stream_writers(stage))
    axes += [(name, axis) for name, axis, _ in stream_readers(stage)]
    axes += [(f"{norm}_{part}", -1) for norm in layer_norms(stage) for part in ("weight", "bias")]
    for name, axis in axes:
        dims = list(stage.parameter(name).dims)
        del dims[axis]
        if not (stream_only and {"hidden", "head", "head_dim", "embed"} & set(dims)):
            yield name, _flatten_rows(np.moveaxis(parameters[name], axis, -1), len(dims) + 1)
    if heads_write_stream(stage) and not stream_only:
        yield "value", _flatten_rows(concatenate_heads(parameters["value"]), 3)


def _flatten_rows(values, n_dims):
    batch = values.shape[: values.ndim - n_dims]
    return values.reshape(*batch, math.prod(values.shape[len(batch) : -1]), values.shape[-1])


def _query_key_weights(parameters):
    """Weights that the query-key rotation of a head acts on, (..., L, H, 2 embed, head_dim)."""
    return np.concatenate([parameters["query"], parameters["key"]], axis=-2)


def _value_weights(parameters, first):
    """Weights that the value rotation of a head acts on, (..., L, H, embed + row, head_dim).

    In the first pass without the hidden units that read the heads of stage 06, which have not been
    matched yet.
    """
    read_by_hidden_units = (
        "feed_forward_multiplier" in parameters and "sa_proj_multiplier" not in parameters
    )
    if first and read_by_hidden_units:
        return parameters["value"]
    return np.concatenate([parameters["value"], head_readers(parameters)], axis=-2)


def _query_key_gain(draws, reference, by_layer=False):
    """Gain of matching heads, each with its best rotation, (draw, [layer,] head, head)."""
    gain = _nuclear_norm(
        _cross_products_of_heads(_query_key_weights(draws), _query_key_weights(reference))
    )
    return gain if by_layer else gain.sum(axis=1)


def _cross_products_of_heads(draws, reference):
    """Cross products of all pairs of heads, (draw, layer, reference's, draw's, h, h)."""
    return np.swapaxes(reference, -1, -2)[:, :, None] @ draws[:, :, None]


def _hidden_units(stage, parameters):
    """Input weights, offset and output weights of each hidden unit, (..., layer, hidden, F)."""
    outputs = parameters[hidden_reader(stage)]
    if hidden_reader(stage) == "lm_head_multiplier":
        outputs = outputs[..., None, :, :]
    inputs = parameters["feed_forward_multiplier"], parameters["feed_forward_offset"][..., None]
    return np.concatenate([*inputs, np.swapaxes(outputs, -1, -2)], axis=-1)


# Linear algebra and assignment, batched.


def _procrustes_rotation(cross):
    """The orthogonal matrix with the largest trace against ``cross``, (..., k, k)."""
    left, _, right = np.linalg.svd(cross)
    return left @ right


def _nuclear_norm(matrices):
    return np.linalg.svd(matrices, compute_uv=False).sum(axis=-1)


def _best_assignment(gain, allowed=None):
    """The assignment of columns to rows, (..., k), with the largest gain.

    Parameters
    ----------
    gain : ndarray, (..., k, k)
    allowed : ndarray of bool, (..., k, k), optional
        Broadcasts against the gain. At least one assignment must be allowed.
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
    for i in np.flatnonzero(clash):  # elsewhere the largest gains of all rows are compatible
        best[i] = linear_sum_assignment(flat[i], maximize=True)[1]
    return best.reshape(*gain.shape[:-1])
