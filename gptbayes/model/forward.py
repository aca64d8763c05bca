"""The forward pass in numpy: from draws and tokens to logits and attention, no Stan.

The other half of the pair is `gpt_logits` in each Stan program; a test holds them together to
1e-10. Leading batch dims of the parameters, usually ``chain, draw``, go through untouched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
from scipy.special import log_softmax

from gptbayes.corpus import Windows
from gptbayes.model.stages import Masks, Stage

Parameters = Mapping[str, np.ndarray]

MAX_BYTES = 256 * 2**20
"""Default bound on the memory of one chunk of draws, see `over_draws`."""

IN_CACHE = 4 * 2**20
"""A bound with which activations stay near in the cache, where many short contexts are read."""


class Activations(NamedTuple):
    """What a forward pass returns.

    Attributes
    ----------
    logits : ndarray, (..., sequence, position, token)
        Unnormalised log probabilities of the next token.
    attention : ndarray, (..., layer, head, sequence, query_position, key_position), or None
        Attention weights: rows sum to one over ``key_position`` and are zero where it lies after
        ``query_position``. With dropout, what its mask leaves of them. None for stages without
        attention.
    """

    logits: np.ndarray
    attention: np.ndarray | None


def forward(
    stage: Stage,
    parameters: Parameters,
    tokens: np.ndarray,
    *,
    blocked: np.ndarray | None = None,
) -> Activations:
    """Run a stage of the ladder.

    Parameters
    ----------
    stage : Stage
    parameters : mapping of str to ndarray
        Each ``(..., dims of that parameter)``, all with the same leading batch dims.
    tokens : ndarray of int, (sequence, position) or (..., sequence, position)
        0-based; no longer than the positions that have an embedding. With the batch dims of the
        parameters in front, every draw reads its own tokens.
    blocked : ndarray of bool, (sequence, position), optional
        Positions that no other position may look at, in any layer: what attention would have given
        them goes to the others in proportion. No effect on stages without attention.

    Returns
    -------
    Activations

    Raises
    ------
    ValueError
        If the dims of the tokens do not fit, the context is longer than the model can read, or a
        stage with dropout has no masks.
    """
    logits, weights, _ = _run(stage, parameters, tokens, blocked=blocked)
    return Activations(logits, np.stack(weights, axis=-5) if weights else None)


def last_logits(
    stage: Stage,
    parameters: Parameters,
    tokens: np.ndarray,
    *,
    blocked: np.ndarray | None = None,
) -> np.ndarray:
    """Logits after the last position alone, for less work: the last layer has one query.

    Parameters
    ----------
    stage, parameters, tokens, unseen
        As for `forward`.

    Returns
    -------
    ndarray, (..., sequence, token)

    Raises
    ------
    ValueError
        As `forward`.
    """
    logits, _, _ = _run(stage, parameters, tokens, blocked=blocked, asked=slice(-1, None))
    return logits[..., 0, :]


def hidden_activity(stage: Stage, parameters: Parameters, tokens: np.ndarray) -> np.ndarray:
    """Which hidden units of the feed-forward layers are active, and where.

    Parameters
    ----------
    stage, parameters, tokens
        As for `forward`.

    Returns
    -------
    ndarray of bool, (..., layer, hidden, sequence, position)

    Raises
    ------
    ValueError
        As `forward`, and for a stage without a feed-forward layer.
    """
    if "feed_forward" not in stage.features:
        raise ValueError(f"stage {stage.number} has no hidden units, stages 06 to 12 have")
    _, _, hidden = _run(stage, parameters, tokens)
    return np.stack([np.moveaxis(each > 0, -1, -3) for each in hidden], axis=-4)


def token_log_prob(
    stage: Stage, parameters: Parameters, windows: Windows, *, max_bytes: int = MAX_BYTES
) -> np.ndarray:
    """Log probability of every next token in some windows, for every draw.

    Parameters
    ----------
    stage : Stage
    parameters : mapping of str to ndarray
        Each ``(*batch, dims of that parameter)``.
    windows : Windows
        0-based tokens, ``(sequence, position)``.
    max_bytes : int
        Bound on the memory of the logits held at any time.

    Returns
    -------
    ndarray, (*batch, sequence, position)
        In nats.
    """

    def log_prob(chunk):
        log_probs = log_softmax(forward(stage, chunk, windows.x).logits, axis=-1)
        return np.take_along_axis(log_probs, windows.y[None, ..., None], axis=-1)[..., 0]

    return over_draws(stage, parameters, windows.x, log_prob, max_bytes=max_bytes)


def over_draws(
    stage: Stage,
    parameters: Parameters,
    tokens: np.ndarray,
    function: Callable[[Parameters], np.ndarray],
    *,
    max_bytes: int = MAX_BYTES,
) -> np.ndarray:
    """Apply a function of draws to chunks of draws, so that memory stays bounded.

    Parameters
    ----------
    stage : Stage
    parameters : mapping of str to ndarray
        Each ``(*batch, dims of that parameter)``.
    tokens : ndarray of int, (sequence, position)
        What ``function`` runs the forward pass on: its size decides how many draws fit.
    function : callable
        Takes parameters with one leading dim, returns an array with the same leading dim.
    max_bytes : int
        Rough bound on the activations of one chunk.

    Returns
    -------
    ndarray, (*batch, ...)
    """
    first = stage.parameters[0]
    values = parameters[first.name]
    batch = values.shape[: values.ndim - len(first.dims)]
    size = _draws_per_chunk(parameters, tokens, max_bytes)
    results = [function(chunk) for chunk in _chunks(stage, parameters, batch, size)]
    joined = np.concatenate(results)
    return joined.reshape(*batch, *joined.shape[1:])


def attention_weights(
    q: np.ndarray, k: np.ndarray, blocked: np.ndarray | None = None
) -> np.ndarray:
    """Causal attention weights.

    Parameters
    ----------
    q, k : ndarray, (..., sequence, position, head_dim)
        Queries and keys. Where there are fewer queries than keys, they are those of the last
        positions.
    blocked : ndarray of bool, (sequence, position), optional
        Positions that only they themselves may look at.

    Returns
    -------
    ndarray, (..., query_position, key_position)
    """
    n_queries, n_keys, head_dim = q.shape[-2], *k.shape[-2:]
    scores = q @ np.swapaxes(k, -1, -2) / np.sqrt(head_dim)  # (..., T, h) @ (..., h, T)
    shut = np.triu(np.ones((n_keys, n_keys), dtype=bool), k=1)  # the future
    if blocked is not None:
        shut = shut | (blocked[:, None, :] & ~np.eye(n_keys, dtype=bool))  # (B, T, T)
    return _softmax(np.where(shut[..., -n_queries:, :], -np.inf, scores))


def _run(stage, parameters, tokens, *, blocked=None, asked=slice(None)):
    """The forward pass: logits at the positions that are asked for, and what each layer did.

    Attention weights and hidden units are lists over layers. Other positions than those asked
    for are read by the last layer, but nothing else is computed of them there.
    """
    stream = _embed(stage, parameters, _checked(stage, parameters, tokens))  # (..., B, T, C)
    n_layer = parameters["key"].shape[-4] if "attention" in stage.features else 0
    weights, hidden = [], []
    for layer in range(n_layer):
        p = _of_layer(stage, parameters, layer)
        rows = asked if layer == n_layer - 1 else slice(None)
        stream, looked, active = _block(stage, p, stream, layer, rows, blocked)
        weights.append(looked)
        hidden.append(active)
    if not n_layer:
        stream = stream[..., asked, :]
    if "blocks" in stage.features:
        stream = _layer_norm(stream, parameters["ln_f_weight"], parameters["ln_f_bias"])
    logits = stream
    if "lm_head" in stage.features:
        logits = _linear(stream, parameters["lm_head_multiplier"], parameters["lm_head_offset"])
    return logits, weights, hidden


def _embed(stage, parameters, tokens):
    stream = _embed_tokens(parameters["token_embedding"], tokens)
    if "position" not in stage.features:
        return stream
    return stream + parameters["position_embedding"][..., None, : tokens.shape[-1], :]


def _embed_tokens(embedding, tokens):
    if tokens.ndim == 2:
        return embedding[..., tokens, :]
    batch = np.indices(tokens.shape[:-2], sparse=True)
    return embedding[*(each[..., None, None] for each in batch), tokens]  # (..., B, T, C)


def _block(stage, p, stream, layer, rows, blocked):
    """One block: look around, then think; ``p`` are the parameters of its layer.

    The stream after it, attention weights, and hidden units before the ReLU if there are any, all
    at those positions that are ``rows``, which may be the last ones or all.
    """
    masks = stage.masks and Masks(*(mask[layer] for mask in stage.masks))
    read = _layer_norm(stream, p["ln1_weight"], p["ln1_bias"]) if "ln1_weight" in p else stream
    attended, weights = _self_attention(read, p, masks, rows, blocked)
    stream = stream[..., rows, :] + attended if "residual" in stage.features else attended
    if "feed_forward" not in stage.features:
        return stream, weights, None
    read = _layer_norm(stream, p["ln2_weight"], p["ln2_bias"]) if "ln2_weight" in p else stream
    thought, hidden = _feed_forward(read, p, masks)
    stream = stream + thought if "residual" in stage.features else thought
    return stream, weights, hidden


def _self_attention(stream, p, masks, rows, blocked):
    def project(stream, weight):  # (..., B, T, C), (..., H, C, h)
        return stream[..., None, :, :, :] @ weight[..., None, :, :]  # (..., H, B, T, h)

    query, key = project(stream[..., rows, :], p["query"]), project(stream, p["key"])
    weights = attention_weights(query, key, blocked)  # (..., H, B, T, T)
    if masks:
        n = weights.shape[-1]
        weights = weights * masks.attention[:, None, :n, :n][..., rows, :]
    heads = weights @ project(stream, p["value"])  # (..., H, B, T, h)
    side_by_side = np.moveaxis(heads, -4, -2)  # (..., B, T, H, h)
    out = side_by_side.reshape(*side_by_side.shape[:-2], -1)  # (..., B, T, C)
    if "sa_proj_multiplier" in p:
        multiplier = p["sa_proj_multiplier"]  # (..., C, H, h)
        multiplier = multiplier.reshape(*multiplier.shape[:-2], -1)
        out = _linear(out, multiplier, p["sa_proj_offset"])
    return out * masks.attention_output if masks else out, weights


def _feed_forward(stream, p, masks):
    hidden = _linear(stream, p["feed_forward_multiplier"], p["feed_forward_offset"])
    out = np.maximum(hidden, 0)
    if "feed_forward_proj_multiplier" in p:
        out = _linear(out, p["feed_forward_proj_multiplier"], p["feed_forward_proj_offset"])
    return out * masks.feed_forward if masks else out, hidden


def _layer_norm(stream, weight, bias):
    centred = stream - stream.mean(axis=-1, keepdims=True)
    n_embed = stream.shape[-1]
    # The sample's sd, no epsilon; by hand, for np.std is no analytic function of complex numbers
    # and the complex steps of `gptbayes.symmetry.dimension` go through here.
    sd = np.sqrt(np.einsum("...c,...c->...", centred, centred) / (n_embed - 1))  # (..., B, T)
    return centred / sd[..., None] * weight[..., None, None, :] + bias[..., None, None, :]


def _linear(stream, multiplier, offset):
    transposed = np.swapaxes(multiplier, -1, -2)  # (..., C, D)
    return stream @ transposed[..., None, :, :] + offset[..., None, None, :]


def _softmax(scores):
    """Over the last axis. SciPy's takes several times as long for arrays of this size."""
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def _of_layer(stage, parameters, layer):
    """The parameters of one layer, without their layer axis."""
    return {
        p.name: parameters[p.name][..., layer, *(slice(None) for _ in p.dims[1:])]  # a view
        for p in stage.parameters
        if p.dims[0] == "layer"
    }


def _checked(stage, parameters, tokens):
    tokens = np.asarray(tokens)
    if "dropout" in stage.features and stage.masks is None:
        raise ValueError(f"stage {stage.number} needs masks, see gptbayes.model.problem.draw_masks")
    batch = parameters["token_embedding"].shape[:-2]
    if tokens.ndim != 2 and tokens.shape[:-2] != batch:
        raise ValueError(
            f"tokens must have shape (sequence, position) or {(*batch, 'sequence', 'position')}, "
            f"got {tokens.shape}"
        )
    if "position" in stage.features:
        block_size = parameters["position_embedding"].shape[-2]
        if tokens.shape[-1] > block_size:
            raise ValueError(f"a context has at most {block_size} tokens, got {tokens.shape[-1]}")
    return tokens


def _draws_per_chunk(parameters, tokens, max_bytes):
    n_token, n_embed = parameters["token_embedding"].shape[-2:]
    per_token = 2 * n_token + 14 * n_embed
    if "key" in parameters:
        n_layer, n_head = parameters["key"].shape[-4:-2]
        per_token += (2 * n_layer + 3) * n_head * tokens.shape[-1]
    return max(1, int(max_bytes // (8 * max(tokens.size, 1) * per_token)))


def _chunks(stage: Stage, parameters, batch, size) -> Iterator[dict[str, np.ndarray]]:
    flat = {
        p.name: parameters[p.name].reshape(-1, *parameters[p.name].shape[len(batch) :])
        for p in stage.parameters
    }
    for start in range(0, int(np.prod(batch)), size):
        yield {name: value[start : start + size] for name, value in flat.items()}
