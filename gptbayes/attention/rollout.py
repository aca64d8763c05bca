"""Attention rollout through all layers."""

from __future__ import annotations

import arviz as az
import numpy as np
import xarray as xr

from gptbayes.attention.contexts import (
    COPIES,
    SOURCES,
    checked_contexts,
    context_coords,
    draws_of,
    labelled,
    problem_with_attention,
)
from gptbayes.attention.patterns import MAX_BYTES
from gptbayes.attention.prior_comparison import summarise_with_prior
from gptbayes.model.forward import attention_of, over_draws


def rollout_weights(attention: np.ndarray, *, residual: bool) -> np.ndarray:
    """Compute attention rollout (Abnar & Zuidema 2020, section 3).

    Rollout is the product over layers of the mean attention weights over heads.

    Parameters
    ----------
    attention : ndarray, (..., layer, head, sequence, query_position, key_position)
    residual : bool
        Whether layers have residual connections. The matrix of each layer is then the average of
        the attention weights and the identity (their equation 1).

    Returns
    -------
    ndarray, (..., sequence, query_position, key_position)
        Rows sum to one. With dropout, rows of each layer are divided by their sums; a row whose
        weights are all masked is replaced by that of the identity.

    Examples
    --------
    >>> uniform = np.tri(3) / np.arange(1, 4)[:, None]
    >>> two_layers = np.stack([uniform, uniform])[:, None, None]  # (L, H, B, T, T)
    >>> rollout_weights(two_layers, residual=False)[0, -1].round(3)
    array([0.611, 0.278, 0.111])
    """
    mean = attention.mean(axis=-4)  # (..., L, B, T, T)
    total = mean.sum(axis=-1, keepdims=True)
    identity = np.broadcast_to(np.eye(mean.shape[-1]), mean.shape)
    layers = np.where(total > 0, mean / np.where(total > 0, total, 1.0), identity)
    if residual:
        layers = 0.5 * layers + 0.5 * identity
    flow = layers[..., 0, :, :, :]
    for layer in range(1, layers.shape[-4]):
        flow = layers[..., layer, :, :, :] @ flow
    return flow


def attention_rollout(
    idata: az.InferenceData,
    contexts: np.ndarray,
    *,
    prob: float = 0.9,
    max_bytes: int = MAX_BYTES,
) -> xr.Dataset:
    """Summarise the posterior and prior of attention rollout.

    A mean over heads does not depend on their order, so that heads are not matched.

    Parameters
    ----------
    idata : InferenceData
    contexts : ndarray of int, (sequence, position)
        0-based tokens.
    prob : float
        Mass of the intervals.
    max_bytes : int
        As in `gptbayes.attention.summarise_attention`.

    Returns
    -------
    Dataset (source, sequence, query_position, key_position)
        The statistics of `gptbayes.stats.summary.summarise` of `rollout_weights`, for the sources
        "posterior" and "prior". ``exceeds_prior``, without that dim, the probability that a
        posterior draw is larger than a prior draw, with its Monte Carlo standard error
        ``exceeds_prior_mcse``. The coord ``text`` (sequence) holds the contexts.

    Raises
    ------
    ValueError
        If the stage has no attention, or contexts have an invalid shape.

    See Also
    --------
    ablate_positions : The effect of a position on the prediction.
    """
    problem = problem_with_attention(idata)
    contexts = checked_contexts(problem, contexts)
    n_draws = max(idata[source]["token_embedding"][..., 0, 0].size for source in SOURCES)
    step = max(1, int(max_bytes // (8 * COPIES * n_draws * contexts.shape[1] ** 2)))
    parts = []
    for start in range(0, len(contexts), step):
        some = contexts[start : start + step]
        draws = {source: _rollout_draws(idata, source, some) for source in SOURCES}
        parts.append(summarise_with_prior(draws, prob))
    summary = xr.concat(parts, "sequence", data_vars="all", combine_attrs="override")
    order = ("source", "sequence", "query_position", "key_position")
    return summary.transpose(*order).assign_coords(context_coords(problem, contexts))


def _rollout_draws(idata, source, contexts):
    stage = problem_with_attention(idata).stage
    residual = "residual" in stage.features

    def of_chunk(chunk):
        weights = attention_of(stage, chunk, contexts)
        return rollout_weights(weights, residual=residual)

    values = over_draws(stage, draws_of(idata, source), contexts, of_chunk)
    return labelled(idata, source, values, "sequence", "query_position", "key_position")
