"""One gauge for every draw, without a reference: for description, not for inference.

More than the posterior's own symmetries go into it: centring, folding and balancing are symmetries
of the likelihood alone and change the density of the prior. What is fixed here describes a draw;
it is no draw of the posterior any more, see `gptbayes.symmetry.align` for what stays one.
"""

from __future__ import annotations

import numpy as np

from gptbayes.model.forward import Parameters
from gptbayes.model.stages import Stage
from gptbayes.symmetry import actions
from gptbayes.symmetry.generators import (
    dropped_elements,
    even_heads,
    even_output,
    head_classes,
    sizes_of,
    stream_blocks,
    uniform_heads,
)


def canonical(stage: Stage, parameters: Parameters) -> dict[str, np.ndarray]:
    """The weights of every draw in a gauge of its own that only its predictions decide.

    Position embeddings are centred (token embeddings too, where nothing but the head reads them)
    and, from stage 07 on, embeddings have unit root mean square; layer norms have
    gain 1 and no bias (the first, whose bias keys, queries and values read, the unit vector along
    ones); nothing is written where a layer norm does not look; the head is centred over tokens;
    queries and keys share the singular values of their product, and so do values and what reads
    them; every hidden unit receives and sends with the same norm; heads, hidden units and
    coordinates are in falling order of strength. The basis of the stream stays what it is where it
    is free to rotate (stages 02 to 06, 08, and within the layer norms from 09 on): follow with
    `gptbayes.symmetry.align`. Dropped weights are 0.

    Parameters
    ----------
    stage : Stage
        With its masks, in stages 11 and 12.
    parameters : mapping of str to ndarray
        Each ``(*batch, dims of that parameter)``.

    Returns
    -------
    dict of str to ndarray
        With the same logits, up to a constant per context. The prior density is another: these
        values describe and must not be re-weighted.
    """
    p = {each.name: parameters[each.name] for each in stage.parameters}
    p = _centre_embeddings(stage, _without_dropped(stage, p))
    if "residual" in stage.features:
        p = _unit_stream(stage, p)
    if "layer_norm" in stage.features:
        p = _folded(stage, p)
    p = _centre_head(stage, p)
    if "permute_hidden" in _orders(stage):
        p = _balanced_hidden(stage, p)
    if "attention" in stage.features:
        p = _balanced_heads(stage, p)
    return _ordered(stage, p)


# Translations.


def _without_dropped(stage, p):
    if stage.masks is None:
        return p
    names = {"feed_forward_proj_multiplier": 2, "feed_forward_proj_offset": 2}
    projected = "projection" in stage.features
    names |= {"sa_proj_multiplier": 1, "sa_proj_offset": 1} if projected else {"value": 1}
    sizes = sizes_of(stage, p)
    for name, mask in names.items():
        full = tuple(sizes[dim] for dim in stage.parameter(name).dims)
        dropped = dropped_elements(stage, name, np.asarray(stage.masks[mask]) == 0, full)
        p = {**p, name: np.where(dropped, 0.0, p[name])}
    return p


def _centre_embeddings(stage, p):
    if "position" in stage.features:
        p = actions.shift_embeddings(p, p["position_embedding"].mean(axis=-2))
    if "blocks" in stage.features:
        for name, axis in actions.stream_writers(stage):
            shift = -p[name].mean(axis=axis)
            p = actions.shift_along_ones(stage, p, name, _where_even(stage, name, shift))
    elif "layer_norm" in stage.features:
        shift = -p["token_embedding"].mean(axis=(-1, -2))
        p = actions.shift_along_ones(stage, p, "token_embedding", shift)
    elif "lm_head" in stage.features and "attention" not in stage.features:
        p = actions.shift_stream(stage, p, -p["token_embedding"].mean(axis=-2))
    return p


def _where_even(stage, name, shift):
    """A shift along ones, 0 in the layers where a mask tells coordinates apart."""
    dims = stage.parameter(name).dims
    if dims[0] != "layer":
        return shift
    n_rest = len(dims) - 2
    even = even_output(stage, name, shift.shape[-n_rest - 1])
    return shift * even.reshape(-1, *(1,) * n_rest)


def _centre_head(stage, p):
    if "lm_head" not in stage.features:
        return actions.shift_logits(p, -p["token_embedding"].mean(axis=-1))
    if "wide_feed_forward" in stage.features and "blocks" not in stage.features:
        p = actions.shift_stream(stage, p, -p["feed_forward_proj_offset"][..., 0, :])
    if "blocks" in stage.features:
        p = actions.shift_readers(p, "ln_f", -p["lm_head_multiplier"].mean(axis=-1))
    columns = p["lm_head_multiplier"].mean(axis=-2)
    offset = p["lm_head_offset"].mean(axis=-1, keepdims=True)
    return actions.shift_logits(p, -np.concatenate([columns, offset], axis=-1))


# Scales and layer norms.


def _unit_stream(stage, p):
    rows = _embeddings(p)
    n_embed = rows.shape[-1]
    if "layer_norm" not in stage.features:  # each coordinate has a scale of its own
        scale = 1 / _or_one(np.sqrt((rows**2).mean(axis=-2)))
        return actions.transform_stream(stage, p, scale[..., None] * np.eye(n_embed))
    scale = 1 / _or_one(np.sqrt((rows**2).mean(axis=(-1, -2))))
    p = actions.transform_stream(stage, p, scale[..., None, None] * np.eye(n_embed))
    skew = (rows**3).sum(axis=(-1, -2))
    return actions.flip_stream(stage, p, np.where(skew < 0, -1.0, 1.0))


def _folded(stage, p):
    for norm in actions.norms(stage):
        p = actions.scale_gain(stage, p, norm, 1 / p[f"{norm}_weight"])
        bias = p[f"{norm}_bias"]
        wanted = 1 / np.sqrt(bias.shape[-1]) if norm == "ln1" else 0.0
        p = actions.shift_bias(stage, p, norm, wanted - bias)
    p = actions.shift_attention(p, "key", -p["key"].mean(axis=-2))
    p = actions.shift_readers(p, "ln2", -p["feed_forward_multiplier"].mean(axis=-1))
    sizes = sizes_of(stage, p)
    constant = p["value"].mean(axis=-2)  # (..., L, H, h)
    if "projection" in stage.features:
        shift = constant * uniform_heads(stage, sizes)
    else:
        same = constant.mean(axis=(-1, -2), keepdims=True) * even_heads(stage, sizes)[:, None, None]
        shift = np.broadcast_to(same, constant.shape)
    return actions.shift_value(stage, p, -shift)


def _balanced_heads(stage, p):
    query, key = _balanced(p["query"], p["key"])
    p = {**p, "query": query, "key": key}
    if actions.heads_write_stream(stage):
        return p
    value, readers = _balanced(p["value"], actions.head_readers(p))
    return {**actions.with_head_readers(p, readers), "value": value}


def _balanced(left, right):
    """Factors (..., n, h), (..., m, h) of the same product that share its singular values."""
    head_dim = left.shape[-1]
    u, s, v = np.linalg.svd(left @ np.swapaxes(right, -1, -2), full_matrices=False)
    root = np.sqrt(s[..., None, :head_dim])
    u, v = u[..., :head_dim], np.swapaxes(v, -1, -2)[..., :head_dim]
    largest = np.take_along_axis(u, np.abs(u).argmax(axis=-2)[..., None, :], axis=-2)
    sign = np.where(largest < 0, -1.0, 1.0)
    return u * sign * root, v * sign * root


def _balanced_hidden(stage, p):
    received, sent = _hidden_norms(stage, p)
    return actions.scale_hidden(stage, p, np.sqrt(_or_one(sent) / _or_one(received)))


def _hidden_norms(stage, p):
    """Of what each hidden unit receives, offset included, and of what it sends, (..., L, hidden).

    In stage 06, where the basis of what the heads pass on is free, of what it receives from them.
    """
    weight, offset = p["feed_forward_multiplier"], p["feed_forward_offset"]
    square = (weight**2).sum(axis=-1)
    if "residual" not in stage.features:
        read = p["value"] @ np.swapaxes(actions.head_readers(p), -1, -2)  # (..., L, H, C, hidden)
        square = (read**2).sum(axis=(-2, -3))
    sent = p[actions.hidden_readers(stage)]
    sent = sent if "wide_feed_forward" in stage.features else sent[..., None, :, :]
    return np.sqrt(square + offset**2), np.linalg.norm(sent, axis=-2)


# Order.


def _orders(stage):
    """Which orders are free."""
    has = stage.features.__contains__
    names = {"permute_stream"} if has("residual") else set()
    if has("multi_head") and not actions.heads_write_stream(stage):
        names.add("permute_heads")
    if has("wide_feed_forward") or (has("feed_forward") and not has("residual")):
        names.add("permute_hidden")
    return names


def _ordered(stage, p):
    known, sizes = _orders(stage), sizes_of(stage, p)
    if "permute_heads" in known:
        labels = head_classes(stage, sizes["layer"], sizes["head"])
        strength = (p["query"] ** 2).sum(axis=(-1, -2))  # the sum of the singular values
        order = [_falling(strength[..., i, :], labels[i]) for i in range(sizes["layer"])]
        p = actions.permute_heads(p, np.stack(order, axis=-2))
    if "permute_hidden" in known:
        received, sent = _hidden_norms(stage, p)
        labels = np.zeros(sizes["hidden"], dtype=int)
        p = actions.permute_hidden(stage, p, _falling(received * sent, labels))
    if "permute_stream" in known:
        p = actions.permute_stream(stage, p, _stream_order(stage, p, sizes))
    return p


def _stream_order(stage, p, sizes):
    """Coordinates in falling order of the spread of the embeddings, heads in that of theirs."""
    blocks, within = stream_blocks(stage, sizes["embed"], sizes["head"])
    n_block, size = within.shape
    # With unit coordinates (07) the largest element tells them apart.
    strength = (_embeddings(p) ** 4).sum(axis=-2)
    strength = strength.reshape(*strength.shape[:-1], n_block, size)
    inner = [_falling(strength[..., i, :], within[i]) for i in range(n_block)]
    inner = np.stack(inner, axis=-2)  # (..., block, size)
    outer = _falling(strength.sum(axis=-1), blocks)  # (..., block)
    place = np.zeros((n_block, n_block, size), dtype=int)  # of a block's coordinates in another
    for i in range(n_block):
        for j in np.flatnonzero(blocks == blocks[i]):
            for label in np.unique(within[i]):
                place[i, j, within[i] == label] = np.flatnonzero(within[j] == label)
    chosen = np.take_along_axis(inner, outer[..., None], axis=-2)
    at = place[np.arange(n_block), outer]  # (..., block, size)
    order = outer[..., None] * size + np.take_along_axis(chosen, at, axis=-1)
    return order.reshape(*order.shape[:-2], -1)


def _falling(strength, labels):
    """The order in which strength (..., k) falls, among places of the same label."""
    order = np.empty(strength.shape, dtype=int)
    for label in np.unique(labels):
        at = np.flatnonzero(labels == label)
        order[..., at] = at[np.argsort(-strength[..., at], axis=-1, kind="stable")]
    return order


def _embeddings(p):
    rows = [p[name] for name in ("token_embedding", "position_embedding") if name in p]
    return np.concatenate(rows, axis=-2)


def _or_one(values):
    """Where there is nothing to scale, 1."""
    return np.where(values == 0, 1.0, values)
