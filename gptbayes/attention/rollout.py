"""Attention followed through the layers, down to the characters of the context."""

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
from gptbayes.model.forward import forward, over_draws
from gptbayes.stats.probability import prob_greater
from gptbayes.stats.summary import side_by_side, summarise


def rollout(attention: np.ndarray, *, residual: bool) -> np.ndarray:
    """Attention rollout (Abnar & Zuidema 2020, section 3).

    Parameters
    ----------
    attention : ndarray, (..., layer, head, sequence, query_position, key_position)
    residual : bool
        Whether a position also passes on what it had: half of each layer's map is then the
        identity (their equation 1), and with a single layer nothing is left to follow.

    Returns
    -------
    ndarray, (..., sequence, query_position, key_position)
        Of each position, how much of what is there comes from which character, as far as mean
        weights tell: the product over layers of their mean over heads. Rows sum to one; those that
        a dropout mask changed are divided by their sums, and a row without any weight stays where
        it is.
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
    """Posterior and prior of attention rollout at some contexts, a few of them at a time.

    A mean over heads does not change with their order: nothing is matched.

    Parameters
    ----------
    idata : InferenceData
    contexts : ndarray of int, (sequence, position)
        0-based tokens.
    prob : float
        Mass of the intervals.
    max_bytes : int
        As for `gptbayes.attention.summarise_attention`.

    Returns
    -------
    Dataset (source, sequence, query_position, key_position)
        The statistics of `gptbayes.stats.summary.summarise` of `rollout`, for the sources
        "posterior" and "prior"; ``exceeds_prior``, without that dim, the probability
        that a posterior draw is larger than a prior draw, with ``exceeds_prior_mcse``. Coord
        ``text`` (sequence). The residual connection, there from stage 07 on, counts half.

    Raises
    ------
    ValueError
        For a stage without attention, or contexts that do not fit.
    """
    problem = problem_with_attention(idata)
    contexts = checked_contexts(problem, contexts)
    n_draws = max(idata[source]["token_embedding"][..., 0, 0].size for source in SOURCES)
    step = max(1, int(max_bytes // (8 * COPIES * n_draws * contexts.shape[1] ** 2)))
    parts = []
    for start in range(0, len(contexts), step):
        some = contexts[start : start + step]
        draws = {source: _rollout_draws(idata, source, some) for source in SOURCES}
        tables = {
            source: summarise(each, prob=prob, exact_constants=True)
            for source, each in draws.items()
        }
        more = prob_greater(draws["posterior"], draws["prior"])
        part = side_by_side(tables)
        parts.append(
            part.assign(exceeds_prior=more["probability"], exceeds_prior_mcse=more["mcse"])
        )
    summary = xr.concat(parts, "sequence", data_vars="all", combine_attrs="override")
    order = ("source", "sequence", "query_position", "key_position")
    return summary.transpose(*order).assign_coords(context_coords(problem, contexts))


def _rollout_draws(idata, source, contexts):
    stage = problem_with_attention(idata).stage
    residual = "residual" in stage.features

    def of_chunk(chunk):
        return rollout(forward(stage, chunk, contexts).attention_weights, residual=residual)

    values = over_draws(stage, draws_of(idata, source), contexts, of_chunk)
    return labelled(idata, source, values, "sequence", "query_position", "key_position")
