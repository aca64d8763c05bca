"""The forward pass of all stages in numpy: from parameters and tokens to logits and attention.

The same function in Stan is ``gpt_logits`` of each stage's program. Tests require the two to agree
to 1e-10. Parameters may have leading batch dims, usually ``chain, draw``; results have the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
from scipy.special import log_softmax

from gptbayes.corpus import Windows
from gptbayes.model.stages import Masks, Stage
from gptbayes.stats.blocks import THREADS, in_threads

Parameters = Mapping[str, np.ndarray]

MAX_BYTES = 256 * 2**20
"""Default limit on the memory of one chunk of draws in bytes, see `over_draws`."""

CACHE_BYTES = 4 * 2**20
"""Limit that keeps the activations in the processor's cache: faster for many short contexts."""


class Activations(NamedTuple):
    """Results of a forward pass.

    Attributes
    ----------
    logits : ndarray, (..., sequence, position, token)
        Unnormalized log probabilities of the next token.
    attention : ndarray, (..., layer, head, sequence, query_position, key_position), or None
        Attention weights. They sum to one over ``key_position`` and are zero at key positions
        after the query position. With dropout they are multiplied by the dropout mask, and no
        longer sum to one. None for stages without attention.
    """

    logits: np.ndarray
    attention: np.ndarray | None

    @property
    def attention_weights(self) -> np.ndarray:
        """``attention`` of a stage that has attention; a ValueError for the others."""
        if self.attention is None:
            raise ValueError("the stage has no attention, stages 04 to 12 have")
        return self.attention


def forward(
    stage: Stage,
    parameters: Parameters,
    tokens: np.ndarray,
    *,
    blocked: np.ndarray | None = None,
) -> Activations:
    """Compute the logits and attention weights of a stage.

    Parameters
    ----------
    stage : Stage
    parameters : mapping of str to ndarray
        Each ``(..., dims of that parameter)``, all with the same leading batch dims.
    tokens : ndarray of int, (sequence, position) or (..., sequence, position)
        0-based, with at most ``block_size`` positions if the stage has position embeddings. With
        the leading batch dims of the parameters, each draw has tokens of its own.
    blocked : ndarray of bool, (sequence, position), optional
        Key positions that are masked for all other query positions, in every layer (attention
        knockout, Geva et al. 2023). The softmax is taken over the remaining positions. No effect on
        stages without attention.

    Returns
    -------
    Activations

    Raises
    ------
    ValueError
        If the tokens have the wrong dims or too many positions, or if a stage with dropout has no
        masks.

    See Also
    --------
    last_logits : Logits of the last position only, at lower cost.
    token_log_prob : Log probabilities of the targets of some windows.

    Examples
    --------
    >>> from gptbayes.corpus import zen_of_python
    >>> from gptbayes.model.problem import make_problem
    >>> from gptbayes.model.simulate import prior_draws
    >>> from gptbayes.model.stages import stage
    >>> problem = make_problem(stage("05"), zen_of_python(), batch_size=3)
    >>> draws = prior_draws(problem, 7, np.random.default_rng(1))
    >>> logits, attention = forward(problem.stage, draws, problem.training.x)
    >>> logits.shape  # draw, sequence, position, token
    (7, 3, 8, 45)
    >>> attention.shape  # draw, layer, head, sequence, query_position, key_position
    (7, 1, 2, 3, 8, 8)
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
    """Compute the logits of the last position only.

    In the last layer only the query of the last position is computed.

    Parameters
    ----------
    stage, parameters, tokens, blocked
        As for `forward`.

    Returns
    -------
    ndarray, (..., sequence, token)

    Raises
    ------
    ValueError
        As `forward`.
    """
    last = slice(-1, None)
    logits, _, _ = _run(stage, parameters, tokens, blocked=blocked, query_positions=last)
    return logits[..., 0, :]


def active_hidden_units(stage: Stage, parameters: Parameters, tokens: np.ndarray) -> np.ndarray:
    """Find the hidden units of the feed-forward layers that are active at each position.

    Parameters
    ----------
    stage, parameters, tokens
        As for `forward`.

    Returns
    -------
    ndarray of bool, (..., layer, hidden, sequence, position)
        True where the input of the ReLU is positive.

    Raises
    ------
    ValueError
        As `forward`, and for a stage without a feed-forward layer.
    """
    if "feed_forward" not in stage.features:
        raise ValueError(
            f"stage must be one of 06 to 12, got {stage.number}, which has no hidden units"
        )
    _, _, hidden = _run(stage, parameters, tokens)
    return np.stack([np.moveaxis(each > 0, -1, -3) for each in hidden], axis=-4)


def token_log_prob(
    stage: Stage, parameters: Parameters, windows: Windows, *, max_bytes: int = MAX_BYTES
) -> np.ndarray:
    """Compute the log probability of each target, for each draw.

    Parameters
    ----------
    stage : Stage
    parameters : mapping of str to ndarray
        Each ``(*batch, dims of that parameter)``.
    windows : Windows
        0-based tokens, ``(sequence, position)``.
    max_bytes : int
        Approximate limit on the memory of the activations held at any time.

    Returns
    -------
    ndarray, (*batch, sequence, position)
        In nats.

    Raises
    ------
    ValueError
        As `forward`.

    See Also
    --------
    gptbayes.model.log_density.log_posterior : Their weighted sum plus the log prior density.
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
    in_order: bool = False,
) -> np.ndarray:
    """Apply a function to chunks of draws, so that memory stays bounded.

    Several chunks are worked on at a time.

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
        Approximate limit on the memory of the activations held at any time.
    in_order : bool
        One chunk after another, as for a function that draws random numbers.

    Returns
    -------
    ndarray, (*batch, ...)
    """
    first = stage.parameters[0]
    values = parameters[first.name]
    batch = values.shape[: values.ndim - len(first.dims)]
    each = max_bytes if in_order else min(max_bytes, max(CACHE_BYTES, max_bytes // THREADS))
    size = _draws_per_chunk(parameters, tokens, each)
    chunks = list(_chunks(stage, parameters, batch, size))
    joined = np.concatenate(in_threads(function, chunks, at_a_time=1 if in_order else THREADS))
    return joined.reshape(*batch, *joined.shape[1:])


def attention_weights(
    q: np.ndarray, k: np.ndarray, blocked: np.ndarray | None = None
) -> np.ndarray:
    """Compute causal attention weights (Vaswani et al. 2017, section 3.2.1).

    Parameters
    ----------
    q, k : ndarray, (..., sequence, position, head_dim)
        Queries and keys. If there are fewer queries than keys, the queries are those of the last
        positions.
    blocked : ndarray of bool, (sequence, position), optional
        Key positions that are masked for all query positions but their own.

    Returns
    -------
    ndarray, (..., query_position, key_position)
    """
    n_queries, n_keys, head_dim = q.shape[-2], *k.shape[-2:]
    scores = q @ np.swapaxes(k, -1, -2) / np.sqrt(head_dim)  # (..., T, h) @ (..., h, T)
    masked = np.triu(np.ones((n_keys, n_keys), dtype=bool), k=1)  # later positions
    if blocked is not None:
        masked = masked | (blocked[:, None, :] & ~np.eye(n_keys, dtype=bool))  # (B, T, T)
    return _softmax(np.where(masked[..., -n_queries:, :], -np.inf, scores))


def _run(stage, parameters, tokens, *, blocked=None, query_positions=slice(None)):
    """The forward pass: logits at the query positions, and activations of each layer.

    Attention weights and hidden units are lists over layers. In the last layer, positions that are
    not query positions have keys and values and nothing else.
    """
    stream = _embed(stage, parameters, _check_tokens(stage, parameters, tokens))  # (..., B, T, C)
    n_layer = parameters["key"].shape[-4] if "attention" in stage.features else 0
    weights, hidden = [], []
    for layer in range(n_layer):
        p = _of_layer(stage, parameters, layer)
        queries = query_positions if layer == n_layer - 1 else slice(None)
        stream, layer_weights, layer_hidden = _block(stage, p, stream, layer, queries, blocked)
        weights.append(layer_weights)
        hidden.append(layer_hidden)
    if not n_layer:
        stream = stream[..., query_positions, :]
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


def _block(stage, p, stream, layer, queries, blocked):
    """One block: self-attention, then feed-forward; ``p`` are the parameters of its layer.

    Returns the residual stream after the block, the attention weights, and the hidden units before
    the ReLU if there are any, all at the query positions ``queries``.
    """
    masks = stage.masks and Masks(*(mask[layer] for mask in stage.masks))
    normed = _layer_norm(stream, p["ln1_weight"], p["ln1_bias"]) if "ln1_weight" in p else stream
    attended, weights = _self_attention(normed, p, masks, queries, blocked)
    stream = stream[..., queries, :] + attended if "residual" in stage.features else attended
    if "feed_forward" not in stage.features:
        return stream, weights, None
    normed = _layer_norm(stream, p["ln2_weight"], p["ln2_bias"]) if "ln2_weight" in p else stream
    out, hidden = _feed_forward(normed, p, masks)
    stream = stream + out if "residual" in stage.features else out
    return stream, weights, hidden


def _self_attention(x, p, masks, queries, blocked):
    query, key = _project(x[..., queries, :], p["query"]), _project(x, p["key"])
    weights = attention_weights(query, key, blocked)  # (..., H, B, T, T)
    if masks:
        n = weights.shape[-1]
        weights = weights * masks.attention[:, None, :n, :n][..., queries, :]
    heads = weights @ _project(x, p["value"])  # (..., H, B, T, h)
    heads = np.moveaxis(heads, -4, -2)  # (..., B, T, H, h)
    out = heads.reshape(*heads.shape[:-2], -1)  # (..., B, T, C)
    if "sa_proj_multiplier" in p:
        multiplier = p["sa_proj_multiplier"]  # (..., C, H, h)
        multiplier = multiplier.reshape(*multiplier.shape[:-2], -1)
        out = _linear(out, multiplier, p["sa_proj_offset"])
    return out * masks.attention_output if masks else out, weights


def _project(x, weight):
    """Of all heads: one product of matrices for each draw takes half the time of one per head."""
    *batch, n_sequence, n_position, n_embed = x.shape  # (..., B, T, C)
    n_head, _, head_dim = weight.shape[-3:]  # (..., H, C, h)
    side_by_side = np.moveaxis(weight, -3, -2).reshape(*weight.shape[:-3], n_embed, -1)
    projected = x.reshape(*batch, n_sequence * n_position, n_embed) @ side_by_side  # (..., BT, Hh)
    projected = projected.reshape(*batch, n_sequence, n_position, n_head, head_dim)
    return np.moveaxis(projected, -2, -4)  # (..., H, B, T, h)


def _feed_forward(x, p, masks):
    hidden = _linear(x, p["feed_forward_multiplier"], p["feed_forward_offset"])
    out = np.maximum(hidden, 0)
    if "feed_forward_proj_multiplier" in p:
        out = _linear(out, p["feed_forward_proj_multiplier"], p["feed_forward_proj_offset"])
    return out * masks.feed_forward if masks else out, hidden


def _layer_norm(x, weight, bias):
    centered = x - x.mean(axis=-1, keepdims=True)
    n_embed = x.shape[-1]
    # The sample sd, without an epsilon. Not np.std: that is not analytic for complex numbers, and
    # `gptbayes.symmetry.dimension` differentiates this function by complex steps.
    sd = np.sqrt(np.einsum("...c,...c->...", centered, centered) / (n_embed - 1))  # (..., B, T)
    return centered / sd[..., None] * weight[..., None, None, :] + bias[..., None, None, :]


def _linear(x, multiplier, offset):
    transposed = np.swapaxes(multiplier, -1, -2)  # (..., C, D)
    return x @ transposed[..., None, :, :] + offset[..., None, None, :]


def _softmax(scores):
    """Softmax over the last axis; SciPy's takes several times as long for arrays of this size."""
    exponentials = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def _of_layer(stage, parameters, layer):
    """The parameters of one layer, without their layer axis."""
    return {
        p.name: parameters[p.name][..., layer, *(slice(None) for _ in p.dims[1:])]  # a view
        for p in stage.parameters
        if p.dims[0] == "layer"
    }


def _check_tokens(stage, parameters, tokens):
    tokens = np.asarray(tokens)
    if "dropout" in stage.features and stage.masks is None:
        raise ValueError(f"stage {stage.number} needs masks, see gptbayes.model.design.draw_masks")
    batch = parameters["token_embedding"].shape[:-2]
    if tokens.ndim != 2 and tokens.shape[:-2] != batch:
        raise ValueError(
            f"tokens must have shape (sequence, position) or {(*batch, 'sequence', 'position')}, "
            f"got {tokens.shape}"
        )
    if "position" in stage.features:
        block_size = parameters["position_embedding"].shape[-2]
        if tokens.shape[-1] > block_size:
            raise ValueError(
                f"tokens must have at most {block_size} positions, the block_size of the model, "
                f"got {tokens.shape[-1]}"
            )
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
