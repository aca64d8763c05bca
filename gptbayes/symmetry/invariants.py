"""Scalar functions of the weights that are invariant under every symmetry.

They describe what a layer, a head or a hidden unit computes, whatever the gauge: singular values
of products of weights that no change of basis alters, and the effect on predictions of ablating a
part. Heads and hidden units can be permuted, so that every scalar is sorted over them: largest,
second largest, and so on. R-hat and ESS of these scalars are meaningful, those of raw weights are
not.
"""

from __future__ import annotations

import numpy as np
import xarray as xr
from scipy.special import entr

from gptbayes.model.ablated import ablate_each_head
from gptbayes.model.forward import MAX_BYTES, Parameters, attention_of, over_draws
from gptbayes.model.layers import log_softmax
from gptbayes.model.problem import Problem
from gptbayes.symmetry.group.axes import split_heads
from gptbayes.symmetry.group.heads import head_readers

N_CONTEXTS = 8
"""Number of training sequences used if no contexts are given."""


def invariant_scalars(
    problem: Problem,
    parameters: Parameters,
    *,
    tokens: np.ndarray | None = None,
    max_bytes: int = MAX_BYTES,
) -> dict[str, xr.DataArray]:
    """Scalars of every draw that depend on what the model computes, not on its gauge.

    Up to stage 08 scores and values are those of all pairs of tokens and positions, root mean
    square; from 09 on, where each layer reads normalised vectors, those of all unit vectors.
    Outputs of heads and hidden units are taken along the direct path to the logits, relative to
    the size of the embeddings where a final layer norm removes the scale.

    Parameters
    ----------
    problem : Problem
    parameters : mapping of str to ndarray
        Each ``(chain, draw, dims of that parameter)``.
    tokens : ndarray of int, (sequence, position), optional
        Contexts, 0-based; by default the first eight training sequences.
    max_bytes : int
        Rough bound on the activations held at any time.

    Returns
    -------
    dict of str to DataArray (chain, draw, scalar)
        Coordinate ``scalar`` is a label. Stages 01 to 03: "singular values of the logits". From 04
        on: "singular values of scores" and "singular values of values" of each layer, the k-th
        sorted over heads; "attention", the entropy of attention weights in nats and the weights on
        the current and on the previous token; "effect of attention weights" and "effect of values",
        the mean Kullback-Leibler divergence in nats of the predictions at the contexts from those
        with uniform attention, or with constant values, in one head. From 06 on: "strength of
        hidden units", the norm of the input times the norm of the output weights.

    Raises
    ------
    ValueError
        If the batch dims of the parameters are not chain and draw.
    """
    stage = problem.stage
    batch = parameters["token_embedding"].shape[:-2]
    if len(batch) != 2:
        raise ValueError(f"parameters must have dims chain and draw in front, got {batch}")
    tokens = problem.training.x[:N_CONTEXTS] if tokens is None else np.asarray(tokens)
    has = stage.features.__contains__
    found = {}
    if not has("attention"):
        found["singular values of the logits"] = _logit_singular_values
    else:
        found["singular values of scores"] = _score_singular_values
        found["singular values of values"] = _value_singular_values
        found["attention"] = _attention
        found["effect of attention weights"] = _effect_of_attention_weights
        found["effect of values"] = _effect_of_values
    if has("feed_forward"):
        found["strength of hidden units"] = _hidden_strength
    return {
        name: _labelled(_by_chunk(function, problem, parameters, tokens, max_bytes))
        for name, function in found.items()
    }


def _by_chunk(function, problem, parameters, tokens, max_bytes):
    """Values (chain, draw, *dims) of a function of draws, and the names of its dims."""
    names: list[str] = []

    def values(chunk):
        result, dims = function(problem.stage, chunk, tokens)
        names[:] = dims
        return result

    return over_draws(problem.stage, parameters, tokens, values, max_bytes=max_bytes), tuple(names)


def _labelled(values_and_dims):
    values, dims = values_and_dims
    shape = values.shape[2:]
    labels = [
        ", ".join(_label(dim, i) for dim, i in zip(dims, index, strict=True))
        for index in np.ndindex(*shape)
    ]
    return xr.DataArray(
        values.reshape(*values.shape[:2], -1),
        dims=("chain", "draw", "scalar"),
        coords={"scalar": labels},
    )


def _label(dim, i):
    return dim[i] if isinstance(dim, tuple) else f"{dim} {i + 1}"


# Singular values. Each function takes draws (draw, ...) and returns (draw, *dims) and the dims.


def _logit_singular_values(stage, p, tokens):
    """Of the matrix of centred logits of all tokens and positions, root mean square."""
    embedding = p["token_embedding"]
    if "lm_head" not in stage.features:
        logits = embedding - embedding.mean(axis=-1, keepdims=True)
        values = np.linalg.svd(logits / np.sqrt(logits.shape[-2]), compute_uv=False)
        return values[..., :-1], ("rank",)
    mean, root = _inputs(p)
    head, offset = _centred_lm_head(p), p["lm_head_offset"]
    offset = (offset - offset.mean(axis=-1, keepdims=True))[..., None, :]
    constant = mean[..., None, :] @ np.swapaxes(head, -1, -2) + offset
    logits = np.concatenate([root @ np.swapaxes(head, -1, -2), constant], axis=-2)
    n = min(head.shape[-2] - 1, head.shape[-1] + 1)
    return np.linalg.svd(logits, compute_uv=False)[..., :n], ("rank",)


def _score_singular_values(stage, p, tokens):
    """Of the scores between inputs, less the component that is the same for all keys."""
    query, key = _attention_input_root(stage, p, "query"), _attention_input_root(stage, p, "key")
    if "layer_norm" in stage.features:
        bias = p["ln1_bias"][..., None, None, :] @ p["query"]
        query = np.concatenate([query, bias], axis=-2)
    else:
        mean = _inputs(p)[0][..., None, None, None, :]
        query = np.concatenate([query, mean @ p["query"]], axis=-2)
    head_dim = key.shape[-1]
    return _sorted_product(query / np.sqrt(head_dim), key), ("layer", "largest", "rank")


def _value_singular_values(stage, p, tokens):
    """Of the map from the input of heads to the logits along the direct path."""
    read = _attention_input_root(stage, p, "value")
    if "layer_norm" not in stage.features:
        mean = _inputs(p)[0][..., None, None, None, :]
        read = np.concatenate([read, mean @ p["value"]], axis=-2)
    return _sorted_product(read, _path_from_heads(stage, p)), ("layer", "largest", "rank")


def _sorted_product(left, right):
    """Singular values (draw, layer, head, rank) of left rightᵀ, the k-th sorted over heads."""
    n = min(left.shape[-2:] + right.shape[-2:])
    triangles = [np.linalg.qr(each, mode="r") for each in (left, right)]
    product = triangles[0] @ np.swapaxes(triangles[1], -1, -2)
    values = np.linalg.svd(product, compute_uv=False)[..., :n]
    return -np.sort(-values, axis=-2)


def _attention_input_root(stage, p, name):
    """A root of the covariance of keys, queries or values, (draw, L, H, embed, head_dim)."""
    if "layer_norm" in stage.features:
        projected = p["ln1_weight"][..., None, :, None] * p[name]
        return projected - projected.mean(axis=-2, keepdims=True)
    return _inputs(p)[1][..., None, None, :, :] @ p[name]


def _inputs(p):
    """Mean and a root of the covariance, (draw, embed, embed), of e_i + p_t over all i and t."""
    rows = [p[name] for name in ("token_embedding", "position_embedding") if name in p]
    mean = sum(each.mean(axis=-2) for each in rows)
    centred = [each - each.mean(axis=-2, keepdims=True) for each in rows]
    stacked = [each / np.sqrt(each.shape[-2]) for each in centred]
    return mean, np.linalg.qr(np.concatenate(stacked, axis=-2), mode="r")


def _centred_lm_head(p):
    head = p["lm_head_multiplier"]
    return head - head.mean(axis=-2, keepdims=True)


def _path_from_heads(stage, p):
    """Weights of the direct path from heads to logits, (draw, layer, head, row, head_dim)."""
    if "residual" not in stage.features:
        readers = head_readers(p)
        if "feed_forward" in stage.features:  # weighted by the output weights of each unit
            output = np.linalg.norm(_centred_lm_head(p), axis=-2)
            return readers * output[..., None, None, :, None]
        return readers - readers.mean(axis=-2, keepdims=True)
    n_layer, n_head, _, head_dim = p["value"].shape[-4:]
    path = _path_from_stream(stage, p)[..., None, :, :]  # (draw, 1, token, embed)
    if stage.masks is not None:
        path = path * stage.masks.attention_output[:, None, :]
    if "projection" in stage.features:
        written = np.moveaxis(p["sa_proj_multiplier"], -2, -3)  # (draw, L, H, C, h)
        return path[..., None, :, :] @ written
    path = np.broadcast_to(path, (*path.shape[:-3], n_layer, *path.shape[-2:]))
    return split_heads(path, n_head, head_dim)


def _path_from_stream(stage, p):
    """Weights of the path from the residual stream to the centred logits, (draw, token, embed)."""
    head = _centred_lm_head(p)
    if "blocks" not in stage.features:
        return head
    head = head * p["ln_f_weight"][..., None, :]
    head = head - head.mean(axis=-1, keepdims=True)
    mean, root = _inputs(p)
    rows = np.concatenate([mean[..., None, :], root], axis=-2)
    rows = rows - rows.mean(axis=-1, keepdims=True)
    size = np.sqrt((rows**2).sum(axis=(-1, -2)) / (rows.shape[-1] - 1))
    return head / size[..., None, None]


def _hidden_strength(stage, p, tokens):
    """Norm of the input, as it varies over inputs, times norm of the output, sorted over units."""
    weight = p["feed_forward_multiplier"]  # (draw, L, hidden, C)
    if "layer_norm" in stage.features:
        projected = weight * p["ln2_weight"][..., None, :]
        inputs = np.linalg.norm(projected - projected.mean(axis=-1, keepdims=True), axis=-1)
    elif "residual" in stage.features:
        projected = _inputs(p)[1][..., None, :, :] @ np.swapaxes(weight, -1, -2)
        inputs = np.linalg.norm(projected, axis=-2)
    else:
        values = _attention_input_root(stage, p, "value")
        projected = values @ np.swapaxes(head_readers(p), -1, -2)
        inputs = np.sqrt((projected**2).sum(axis=(-2, -3)))
    if "wide_feed_forward" in stage.features:
        path = _path_from_stream(stage, p)[..., None, :, :]
        if stage.masks is not None:
            path = path * stage.masks.feed_forward[:, None, :]
        output = np.linalg.norm(path @ p["feed_forward_proj_multiplier"], axis=-2)
    else:
        output = np.linalg.norm(_centred_lm_head(p), axis=-2)[..., None, :]
    return -np.sort(-inputs * output, axis=-1), ("layer", "largest")


# At the contexts.


def _attention(stage, p, tokens):
    """Mean entropy and weights of attention, each sorted over heads."""
    weights = attention_of(stage, p, tokens)  # (draw, L, H, B, T, T)
    if weights.shape[-1] == 1:  # a position that can attend to itself only
        itself = np.broadcast_to([0.0, 1.0, 0.0], (*weights.shape[:3], 3))
        return itself, ("layer", "largest", _OF_ATTENTION)
    own = np.diagonal(weights, axis1=-2, axis2=-1)[..., 1:].mean(axis=(-1, -2))
    last = np.diagonal(weights, offset=-1, axis1=-2, axis2=-1).mean(axis=(-1, -2))
    entropy = entr(weights).sum(axis=-1)[..., 1:].mean(axis=(-1, -2))
    summaries = np.stack([entropy, own, last], axis=-1)  # (draw, L, H, 3)
    return -np.sort(-summaries, axis=2), ("layer", "largest", _OF_ATTENTION)


_OF_ATTENTION = ("entropy", "on the current token", "on the previous token")


def _effect_of_attention_weights(stage, p, tokens):
    return _effect(stage, p, tokens, "query", lambda p, values: np.zeros_like(values))


def _effect_of_values(stage, p, tokens):
    return _effect(stage, p, tokens, "value", _constant)


def _constant(p, values):
    """Values (draw, L, H, C, h) that respond only to the bias of the layer norm, or zero."""
    if "ln1_bias" not in p:
        return np.zeros_like(values)
    gain, bias = p["ln1_weight"][..., None, :], p["ln1_bias"][..., None, :]
    response = bias[..., None, :] @ values  # (draw, L, H, 1, h)
    return response / (bias / gain).sum(axis=-1)[..., None, None] / gain[..., None]


def _effect(stage, p, tokens, name, replaced):
    """Mean divergence of predictions if the weights of one head are replaced, sorted over heads."""
    logits, ablated = ablate_each_head(stage, p, tokens, instead={name: replaced(p, p[name])})
    before = log_softmax(logits)
    likely = np.exp(before)
    effect = np.empty((len(before), *p[name].shape[-4:-2]))  # (draw, L, H)
    for layer, head, after in ablated:
        ratio = before - log_softmax(after)
        divergence = np.einsum("...k,...k->...", likely, ratio)  # (draw, B, T)
        effect[..., layer, head] = divergence.mean(axis=(-1, -2))
    return -np.sort(-effect, axis=-1), ("layer", "largest")
