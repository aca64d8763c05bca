"""The layers of a stage in numpy: embedding, self-attention, feed-forward, layer norm, linear maps.

Arrays have the leading batch dims of the parameters, written ``...``; B is the sequence, T the
position, C ``n_embed``, H the head and h ``head_dim``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from gptbayes.model.stages import Masks

QUERIES = 8
"""Query positions whose attention is computed together; later keys are left out of it."""


FEW_ROWS = 8
"""Products with fewer rows take less time than a copy of a transposed matrix would save."""

LARGE = 600.0
"""Scores between its negative and it have exponentials whose sums neither overflow nor vanish."""


class Attended(NamedTuple):
    """Results of self-attention.

    Attributes
    ----------
    heads : ndarray, (..., B, T, H, h)
        Sums of the values of each head, at the query positions.
    weights : ndarray, (..., H, B, query_position, key_position), or None
        After the dropout mask. None unless they are kept.
    """

    heads: np.ndarray
    weights: np.ndarray | None


def embed(
    token_embedding: np.ndarray, position_embedding: np.ndarray | None, tokens: np.ndarray
) -> np.ndarray:
    """The residual stream before the first block.

    Parameters
    ----------
    token_embedding : ndarray, (..., token, C)
    position_embedding : ndarray, (..., T, C), optional
    tokens : ndarray of int, (B, T) or (..., B, T)

    Returns
    -------
    ndarray, (..., B, T, C)
    """
    if tokens.ndim == 2:
        stream = np.take(token_embedding, tokens, axis=-2)
    else:
        stream = _embed_own(token_embedding, tokens)
    if position_embedding is not None:
        stream += position_embedding[..., None, : tokens.shape[-1], :]
    return stream


def self_attention(
    x: np.ndarray,
    p: Mapping[str, np.ndarray],
    masks: Masks | None,
    *,
    blocked: np.ndarray | None = None,
    n_queries: int | None = None,
    keep_weights: bool = False,
) -> Attended:
    """Heads of one layer, before they are projected.

    Parameters
    ----------
    x : ndarray, (..., B, T, C)
    p : mapping of str to ndarray
        Parameters of the layer.
    masks : Masks, optional
        Dropout masks of the layer.
    blocked : ndarray of bool, (B, T), optional
        Key positions that are masked for all query positions but their own.
    n_queries : int, optional
        The last so many positions are query positions; by default all.
    keep_weights : bool

    Returns
    -------
    Attended
    """
    n = x.shape[-2]
    n_queries = n if n_queries is None else n_queries
    if n_queries == 1 and not keep_weights:
        return _attention_of_last(x, p, masks, blocked)
    query, key, value = projected_heads(x, p, ("query", "key", "value"))
    first = n - n_queries
    heads = np.empty((*value.shape[:-2], n_queries, value.shape[-1]), value.dtype)
    kept = np.zeros((*value.shape[:-2], n_queries, n), value.dtype) if keep_weights else None
    for rows, weights, total in _exponentials_by_rows(query[..., first:, :], key, blocked):
        n_keys = weights.shape[-1]
        if masks is not None:
            weights *= masks.attention[:, None, first + rows.start : n_keys, :n_keys]
        if kept is not None:
            kept[..., rows, :n_keys] = np.divide(weights, total, out=weights)
        found = weights @ value[..., :n_keys, :]
        if kept is None:  # there are fewer values than weights to divide
            found /= total
        heads[..., rows, :] = found
    return Attended(heads.swapaxes(-4, -3).swapaxes(-3, -2), kept)


def projected_heads(
    x: np.ndarray, p: Mapping[str, np.ndarray], names: Sequence[str]
) -> list[np.ndarray]:
    """Queries, keys or values of all heads, by one product of matrices for each draw.

    Parameters
    ----------
    x : ndarray, (..., B, T, C)
    p : mapping of str to ndarray
        Parameters of the layer.
    names : sequence of {"query", "key", "value"}

    Returns
    -------
    list of ndarray, (..., H, B, T, h)
    """
    together = np.concatenate([p[name] for name in names], axis=-3)  # (..., names * H, C, h)
    n_head, projected = p[names[0]].shape[-3], _project(x, together)
    starts = range(0, together.shape[-3], n_head)
    return [projected[..., start : start + n_head, :, :, :] for start in starts]


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
    batch = np.broadcast_shapes(q.shape[:-2], k.shape[:-2])
    weights = np.zeros((*batch, q.shape[-2], k.shape[-2]), np.result_type(q, k))
    for rows, some, total in _exponentials_by_rows(q, k, blocked):
        np.divide(some, total, out=weights[..., rows, : some.shape[-1]])
    return weights


def feed_forward(
    x: np.ndarray, p: Mapping[str, np.ndarray], masks: Masks | None
) -> tuple[np.ndarray, np.ndarray]:
    """The feed-forward layer.

    Parameters
    ----------
    x : ndarray, (..., B, T, C)
    p : mapping of str to ndarray
        Parameters of the layer.
    masks : Masks, optional
        Dropout masks of the layer.

    Returns
    -------
    tuple of ndarray
        The result, (..., B, T, C), and the hidden units after the ReLU, (..., B, T, hidden).
    """
    hidden = linear(x, p["feed_forward_multiplier"], p["feed_forward_offset"])
    out = hidden = np.maximum(hidden, 0, out=hidden)
    if "feed_forward_proj_multiplier" in p:
        out = linear(hidden, p["feed_forward_proj_multiplier"], p["feed_forward_proj_offset"])
    return out * masks.feed_forward if masks is not None else out, hidden


def layer_norm(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Layer norm with the sample standard deviation, without an epsilon.

    Parameters
    ----------
    x : ndarray, (..., B, T, C)
    weight, bias : ndarray, (..., C)

    Returns
    -------
    ndarray, (..., B, T, C)
    """
    n_embed = x.shape[-1]
    # Not np.std: that is not analytic for complex numbers, and `gptbayes.symmetry.dimension`
    # differentiates this function by complex steps.
    mean = _sum_of_each_draw(x) / n_embed
    centered = np.subtract(x, mean[..., None], order="C")
    centered /= np.sqrt(_sum_of_each_draw(np.square(centered)) / (n_embed - 1))[..., None]
    flat = _positions_in_a_row(centered)
    flat *= _repeated(weight, x)
    flat += _repeated(bias, x)
    return centered


def linear(x: np.ndarray, multiplier: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """A linear map with an offset.

    Parameters
    ----------
    x : ndarray, (..., B, T, C)
    multiplier : ndarray, (..., D, C)
    offset : ndarray, (..., D)

    Returns
    -------
    ndarray, (..., B, T, D)
    """
    found = _of_each_draw(x, multiplier.swapaxes(-1, -2))
    flat = _positions_in_a_row(found)
    flat += _repeated(offset, found)
    return found


def softmax(scores: np.ndarray, penalty: np.ndarray | None = None) -> np.ndarray:
    """Softmax over the last axis, in the place of the scores.

    Parameters
    ----------
    scores : ndarray, (..., n)
    penalty : ndarray, optional
        Added to the scores; minus infinity for what has probability zero.

    Returns
    -------
    ndarray, (..., n)
    """
    shift = _may_overflow(scores)
    if penalty is not None:
        scores += penalty
    if shift:
        scores -= scores.max(axis=-1, keepdims=True)
    np.exp(scores, out=scores)
    scores /= _sum(scores)[..., None]
    return scores


def log_softmax(scores: np.ndarray) -> np.ndarray:
    """Logarithm of the softmax over the last axis, in the place of the scores.

    Parameters
    ----------
    scores : ndarray, (..., n)

    Returns
    -------
    ndarray, (..., n)
    """
    if _may_overflow(scores):
        scores -= scores.max(axis=-1, keepdims=True)
    scores -= np.log(_sum(np.exp(scores)))[..., None]
    return scores


def softmax_and_log(scores: np.ndarray, p: np.ndarray, log_p: np.ndarray) -> None:
    """Softmax over the last axis and its logarithm, with one exponential each.

    Parameters
    ----------
    scores : ndarray, (..., n)
        They are overwritten.
    p, log_p : ndarray, (..., n)
        Where the results are put.
    """
    if _may_overflow(scores):
        scores -= scores.max(axis=-1, keepdims=True)
    np.exp(scores, out=p)
    total = _sum(p)
    np.subtract(scores, np.log(total)[..., None], out=log_p)
    p /= total[..., None]


def _may_overflow(scores):
    """Whether the largest score of each row must be subtracted, which takes as long as a sum."""
    if np.iscomplexobj(scores):
        return True
    return not (scores.min(initial=0.0) > -LARGE and scores.max(initial=0.0) < LARGE)


def _sum(values):
    """Sums over a short last axis, for which `numpy.sum` takes twice as long."""
    return np.einsum("...k->...", values)


def _sum_of_each_draw(x):
    """Sums (..., B, T) over the last axis, as a product: faster still than `_sum`."""
    return _of_each_draw(x, np.ones((x.shape[-1], 1)))[..., 0]


def _positions_in_a_row(x):
    """A view (..., B, T C) of a contiguous array: numpy is slow where the last axis is short."""
    return x.reshape(*x.shape[:-2], -1)


def _repeated(vector, x):
    """A vector (..., C), once for each position of ``x`` (..., B, T, C): (..., 1, T C)."""
    *batch, n_embed = vector.shape
    repeated = np.empty((*batch, x.shape[-2], n_embed), vector.dtype)
    repeated[:] = vector[..., None, :]
    return repeated.reshape(*batch, 1, -1)


def _embed_own(token_embedding, tokens):
    """Embeddings (..., B, T, C) of tokens (..., B, T) that each draw has for itself."""
    *batch, n_token, n_embed = token_embedding.shape
    if tokens.size and not 0 <= tokens.min() <= tokens.max() < n_token:
        raise IndexError(f"tokens must be in 0..{n_token - 1}")
    first = n_token * np.arange(np.prod(batch, dtype=int)).reshape(*batch, 1, 1)
    return token_embedding.reshape(-1, n_embed).take(tokens + first, axis=0)


def _attention_of_last(x, p, masks, blocked):
    """Attention of the last position, which needs no keys and values of the others.

    The scores q Kᵀ are (q W_Kᵀ) xᵀ, and the sum of values w V is (w x) W_V.
    """
    n, head_dim = x.shape[-2], p["key"].shape[-1]
    query = _project(x[..., -1:, :], p["query"])[..., 0, :] / np.sqrt(head_dim)  # (..., H, B, h)
    asked = (query @ p["key"].swapaxes(-1, -2)).swapaxes(-3, -2)  # (..., B, H, C)
    scores = asked @ x.swapaxes(-1, -2)  # (..., B, H, T)
    penalty = None
    if blocked is not None:
        penalty = np.where(blocked[:, None, :] & (np.arange(n) < n - 1), -np.inf, 0.0)
    weights = softmax(scores, penalty)
    if masks is not None:
        weights *= masks.attention[:, n - 1, :n]
    heads = (weights @ x).swapaxes(-3, -2) @ p["value"]  # (..., H, B, h)
    return Attended(heads.swapaxes(-3, -2)[..., None, :, :], None)


def _exponentials_by_rows(q, k, blocked):
    """Exponentials of the scores of a few query positions at a time, and their sums (..., T, 1).

    On the keys up to the last of these positions. Attention weights are their quotients.
    """
    n_queries, n_keys, head_dim = q.shape[-2], k.shape[-2], k.shape[-1]
    masked = np.triu(np.ones((n_keys, n_keys), dtype=bool), k=1)  # later positions
    if blocked is not None:
        masked = masked | (blocked[:, None, :] & ~np.eye(n_keys, dtype=bool))  # (B, T, T)
    masked = masked[..., n_keys - n_queries :, :]
    # A copy, because products with the transposed view take twice as long.
    keys = np.empty((*k.shape[:-2], head_dim, n_keys), k.dtype)
    np.divide(k.swapaxes(-1, -2), np.sqrt(head_dim), out=keys)
    for start in range(0, n_queries, QUERIES):
        rows = slice(start, min(start + QUERIES, n_queries))
        n = n_keys - n_queries + rows.stop
        scores = q[..., rows, :] @ keys[..., :n]  # (..., T, h) @ (..., h, T)
        weights = _exponentials(scores, masked[..., rows, :n])
        yield rows, weights, _sum(weights)[..., None]


def _exponentials(scores, masked):
    """Exponentials in the place of the scores, up to a factor of each row; 0 where masked."""
    if _may_overflow(scores):
        scores += np.where(masked, -np.inf, 0.0)
        scores -= scores.max(axis=-1, keepdims=True)
        return np.exp(scores, out=scores)
    np.exp(scores, out=scores)
    scores *= np.where(masked, 0.0, 1.0)  # faster than exponentials of minus infinity
    return scores


def _project(x, weight):
    """Products with the matrices (..., H, C, h) of all heads, (..., H, B, T, h)."""
    n_head, n_embed, head_dim = weight.shape[-3:]
    side_by_side = weight.swapaxes(-3, -2).reshape(*weight.shape[:-3], n_embed, -1)
    projected = _of_each_draw(x, side_by_side)  # (..., B, T, H h)
    projected = projected.reshape(*projected.shape[:-1], n_head, head_dim)
    return projected.swapaxes(-3, -2).swapaxes(-4, -3)


def _of_each_draw(x, matrix):
    """One product for each draw, (..., B, T, C) by (..., C, D): faster than one per sequence."""
    *batch, n_sequence, n_position, n_embed = x.shape
    if n_sequence * n_position >= FEW_ROWS:
        matrix = np.ascontiguousarray(matrix)
    found = x.reshape(*batch, n_sequence * n_position, n_embed) @ matrix
    return found.reshape(*batch, n_sequence, n_position, -1)
