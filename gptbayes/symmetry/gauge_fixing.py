"""A canonical form of every draw: gauge fixing without a reference, for description only.

Centring, folding and balancing are symmetries of the likelihood and change the density of the
prior. The canonical form therefore describes what a draw computes and is not itself a draw from the
posterior. Use `gptbayes.symmetry.align` for aligned draws from the posterior.
"""

from __future__ import annotations

import numpy as np

from gptbayes.model.forward import Parameters
from gptbayes.model.stages import Stage
from gptbayes.symmetry.group.architecture import (
    has_free_hidden_units,
    heads_write_stream,
    hidden_reader,
    layer_norms,
    stream_writers,
)
from gptbayes.symmetry.group.axes import sizes_of
from gptbayes.symmetry.group.centring import (
    shift_along_inverse_gain,
    shift_along_ones,
    shift_norm_readers,
    shift_value,
)
from gptbayes.symmetry.group.compact import stage_group, transform_stage
from gptbayes.symmetry.group.dropout import droppable_parameters
from gptbayes.symmetry.group.embeddings import (
    embedding_rows,
    shift_embeddings,
    shift_logits,
    shift_stream,
)
from gptbayes.symmetry.group.heads import head_readers, with_head_readers
from gptbayes.symmetry.group.hidden_units import scale_hidden
from gptbayes.symmetry.group.layer_norms import scale_gain, shift_bias
from gptbayes.symmetry.group.masks import (
    dropped_elements,
    head_classes,
    heads_with_constant_mask,
    layers_with_constant_output_mask,
    layers_with_equal_heads,
    stream_blocks,
)
from gptbayes.symmetry.group.stream import transform_stream


def canonical_form(stage: Stage, parameters: Parameters) -> dict[str, np.ndarray]:
    """The parameters of every draw in a form that depends on its predictions only.

    - Position embeddings are centred, and token embeddings too where only the LM head reads them.
      From stage 07 on embeddings have unit root mean square.
    - Layer norms have gain 1 and bias 0. The bias of ``ln1``, which keys, queries and values read,
      is the unit vector along ones.
    - Nothing is written along ones where a layer norm removes it.
    - The LM head is centred over tokens.
    - Queries and keys share the singular values of their product equally, and so do values and the
      weights that read them.
    - Input and output weights of a hidden unit have equal norms.
    - Heads, hidden units and coordinates are in decreasing order of norm.
    - Dropped weights are 0.

    The basis of the residual stream is not fixed where it is free to rotate (stages 02 to 06, 08,
    and among vectors that fix ones from 09 on). Follow with `gptbayes.symmetry.align`.

    Parameters
    ----------
    stage : Stage
        In stages 11 and 12 with its masks.
    parameters : mapping of str to ndarray
        Each ``(*batch, dims of that parameter)``.

    Returns
    -------
    dict of str to ndarray
        With the same logits, up to a constant per context. The prior density is not the same:
        these values are descriptions, not weighted draws.
    """
    p = {each.name: parameters[each.name] for each in stage.parameters}
    p = _centre_embeddings(stage, _zero_dropped(stage, p))
    if "residual" in stage.features:
        p = _scale_embeddings(stage, p)
    if "layer_norm" in stage.features:
        p = _fold_layer_norms(stage, p)
    p = _centre_lm_head(stage, p)
    if has_free_hidden_units(stage):
        p = _balance_hidden(stage, p)
    if "attention" in stage.features:
        p = _balance_heads(stage, p)
    return _sort_parts(stage, p)


# Translations.


def _zero_dropped(stage, p):
    if stage.masks is None:
        return p
    sizes = sizes_of(stage, p)
    for name in droppable_parameters(stage):
        full = tuple(sizes[dim] for dim in stage.parameter(name).dims)
        p = {**p, name: np.where(dropped_elements(stage, name, full), 0.0, p[name])}
    return p


def _centre_embeddings(stage, p):
    if "position" in stage.features:
        p = shift_embeddings(p, p["position_embedding"].mean(axis=-2))
    if "blocks" in stage.features:
        for name, axis in stream_writers(stage):
            shift = -p[name].mean(axis=axis)
            p = shift_along_ones(stage, p, name, _where_mask_is_constant(stage, name, shift))
    elif "layer_norm" in stage.features:
        shift = -p["token_embedding"].mean(axis=(-1, -2))
        p = shift_along_ones(stage, p, "token_embedding", shift)
    elif "lm_head" in stage.features and "attention" not in stage.features:
        p = shift_stream(stage, p, -p["token_embedding"].mean(axis=-2))
    return p


def _where_mask_is_constant(stage, name, shift):
    """A shift along ones, 0 in layers whose output mask is not constant."""
    dims = stage.parameter(name).dims
    if dims[0] != "layer":
        return shift
    n_rest = len(dims) - 2
    constant = layers_with_constant_output_mask(stage, name, shift.shape[-n_rest - 1])
    return shift * constant.reshape(-1, *(1,) * n_rest)


def _centre_lm_head(stage, p):
    if "lm_head" not in stage.features:
        return shift_logits(p, -p["token_embedding"].mean(axis=-1))
    if "wide_feed_forward" in stage.features and "blocks" not in stage.features:
        p = shift_stream(stage, p, -p["feed_forward_proj_offset"][..., 0, :])
    if "blocks" in stage.features:
        p = shift_norm_readers(p, "ln_f", -p["lm_head_multiplier"].mean(axis=-1))
    columns = p["lm_head_multiplier"].mean(axis=-2)
    offset = p["lm_head_offset"].mean(axis=-1, keepdims=True)
    return shift_logits(p, -np.concatenate([columns, offset], axis=-1))


# Scales and layer norms.


def _scale_embeddings(stage, p):
    rows = embedding_rows(p)
    n_embed = rows.shape[-1]
    if "layer_norm" not in stage.features:  # each coordinate has a scale of its own
        scale = 1 / _zero_to_one(np.sqrt((rows**2).mean(axis=-2)))
        return transform_stream(stage, p, scale[..., None] * np.eye(n_embed))
    scale = 1 / _zero_to_one(np.sqrt((rows**2).mean(axis=(-1, -2))))
    p = transform_stream(stage, p, scale[..., None, None] * np.eye(n_embed))
    skew = (rows**3).sum(axis=(-1, -2))
    return transform_stage(stage, "flip_stream", p, np.where(skew < 0, -1.0, 1.0))


def _fold_layer_norms(stage, p):
    for norm in layer_norms(stage):
        p = scale_gain(stage, p, norm, 1 / p[f"{norm}_weight"])
        bias = p[f"{norm}_bias"]
        wanted = 1 / np.sqrt(bias.shape[-1]) if norm == "ln1" else 0.0
        p = shift_bias(stage, p, norm, wanted - bias)
    p = shift_along_inverse_gain(p, "key", -p["key"].mean(axis=-2))
    p = shift_norm_readers(p, "ln2", -p["feed_forward_multiplier"].mean(axis=-1))
    sizes = sizes_of(stage, p)
    constant = p["value"].mean(axis=-2)  # (..., L, H, h)
    if "projection" in stage.features:
        shift = constant * heads_with_constant_mask(stage, sizes)
    else:
        same = (
            constant.mean(axis=(-1, -2), keepdims=True)
            * layers_with_equal_heads(stage, sizes)[:, None, None]
        )
        shift = np.broadcast_to(same, constant.shape)
    return shift_value(stage, p, -shift)


def _balance_heads(stage, p):
    query, key = _balance(p["query"], p["key"])
    p = {**p, "query": query, "key": key}
    if heads_write_stream(stage):
        return p
    value, readers = _balance(p["value"], head_readers(p))
    return {**with_head_readers(p, readers), "value": value}


def _balance(left, right):
    """Factors (..., n, h), (..., m, h) of the same product that share its singular values."""
    head_dim = left.shape[-1]
    u, s, v = np.linalg.svd(left @ np.swapaxes(right, -1, -2), full_matrices=False)
    root = np.sqrt(s[..., None, :head_dim])
    u, v = u[..., :head_dim], np.swapaxes(v, -1, -2)[..., :head_dim]
    largest = np.take_along_axis(u, np.abs(u).argmax(axis=-2)[..., None, :], axis=-2)
    sign = np.where(largest < 0, -1.0, 1.0)
    return u * sign * root, v * sign * root


def _balance_hidden(stage, p):
    inputs, outputs = _hidden_norms(stage, p)
    return scale_hidden(stage, p, np.sqrt(_zero_to_one(outputs) / _zero_to_one(inputs)))


def _hidden_norms(stage, p):
    """Norms of the input weights and offset, and of the output weights, each (..., L, hidden).

    In stage 06, where the basis of the output of the heads is free, input weights are multiplied by
    the values.
    """
    weight, offset = p["feed_forward_multiplier"], p["feed_forward_offset"]
    square = (weight**2).sum(axis=-1)
    if "residual" not in stage.features:
        read = p["value"] @ np.swapaxes(head_readers(p), -1, -2)  # (..., L, H, C, hidden)
        square = (read**2).sum(axis=(-2, -3))
    outputs = p[hidden_reader(stage)]
    outputs = outputs if "wide_feed_forward" in stage.features else outputs[..., None, :, :]
    return np.sqrt(square + offset**2), np.linalg.norm(outputs, axis=-2)


# Permutations.


def _sort_parts(stage, p):
    sizes, group = sizes_of(stage, p), stage_group(stage)
    free = [part.name for part in group.parts] if group else []
    if "permute_heads" in free:
        labels = head_classes(stage, sizes["layer"], sizes["head"])
        strength = (p["query"] ** 2).sum(axis=(-1, -2))  # the sum of the singular values
        order = [_decreasing_order(strength[..., i, :], labels[i]) for i in range(sizes["layer"])]
        p = transform_stage(stage, "permute_heads", p, np.stack(order, axis=-2))
    if "permute_hidden" in free:
        inputs, outputs = _hidden_norms(stage, p)
        labels = np.zeros(sizes["hidden"], dtype=int)
        order = _decreasing_order(inputs * outputs, labels)
        p = transform_stage(stage, "permute_hidden", p, order)
    if "permute_stream" in free:
        p = transform_stage(stage, "permute_stream", p, *_stream_permutation(stage, p, sizes))
    return p


def _stream_permutation(stage, p, sizes):
    """Coordinates, and heads, in decreasing order of the fourth moments of the embeddings."""
    blocks, within = stream_blocks(stage, sizes["embed"], sizes["head"])
    n_block, size = within.shape
    # In stage 07 second moments are one, so that fourth moments are compared.
    strength = (embedding_rows(p) ** 4).sum(axis=-2)
    strength = strength.reshape(*strength.shape[:-1], n_block, size)
    orders = [_decreasing_order(strength[..., i, :], within[i]) for i in range(n_block)]
    inner = np.stack(orders, axis=-2)  # (..., block, size)
    if not heads_write_stream(stage):
        return (inner[..., 0, :],)
    outer = _decreasing_order(strength.sum(axis=-1), blocks)  # (..., block)
    # Places of the coordinates of one block in another block.
    place = np.zeros((n_block, n_block, size), dtype=int)
    for i in range(n_block):
        for j in np.flatnonzero(blocks == blocks[i]):
            for label in np.unique(within[i]):
                place[i, j, within[i] == label] = np.flatnonzero(within[j] == label)
    chosen = np.take_along_axis(inner, outer[..., None], axis=-2)
    at = place[np.arange(n_block), outer]  # (..., block, size)
    return outer, np.take_along_axis(chosen, at, axis=-1)


def _decreasing_order(strength, labels):
    """The permutation that sorts strength (..., k), largest first, among equal labels."""
    order = np.empty(strength.shape, dtype=int)
    for label in np.unique(labels):
        at = np.flatnonzero(labels == label)
        order[..., at] = at[np.argsort(-strength[..., at], axis=-1, kind="stable")]
    return order


def _zero_to_one(values):
    """Zeros, which cannot be scaled, replaced by 1."""
    return np.where(values == 0, 1.0, values)
