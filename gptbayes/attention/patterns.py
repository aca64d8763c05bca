"""Attention weights of each draw, and their summaries."""

from __future__ import annotations

import arviz as az
import numpy as np
import xarray as xr

from gptbayes.attention.assignment import past_mask
from gptbayes.attention.contexts import (
    COPIES,
    checked_contexts,
    context_coords,
    draws_of,
    labelled,
    problem_with_attention,
)
from gptbayes.attention.matching import Matching, head_order, reordered
from gptbayes.model.forward import attention_of, over_draws
from gptbayes.stats.probability import probability
from gptbayes.stats.summary import STATISTICS, summarise

MAX_BYTES = 512 * 2**20
"""Default bound on the memory of attention weights and their copies."""


def attention_draws(
    idata: az.InferenceData, contexts: np.ndarray, *, group: str = "posterior"
) -> xr.DataArray:
    """Compute the attention weights of each draw at some contexts, without matching of heads.

    All weights are held in memory, as is feasible for a few contexts and a few hundred draws. The
    memory of `summarise_attention` does not depend on the number of contexts.

    Parameters
    ----------
    idata : InferenceData
    contexts : ndarray of int, (sequence, position)
        0-based tokens.
    group : {"posterior", "prior"}

    Returns
    -------
    DataArray (chain, draw, layer, head, sequence, query_position, key_position)

    Raises
    ------
    ValueError
        If the stage has no attention.

    See Also
    --------
    match_heads : Match the heads of these weights.
    """
    problem = problem_with_attention(idata)

    def weights(chunk):
        return attention_of(problem.stage, chunk, contexts)

    values = over_draws(problem.stage, draws_of(idata, group), contexts, weights)
    dims = ("layer", "head", "sequence", "query_position", "key_position")
    return labelled(idata, group, values, *dims).rename("attention")


def summarise_attention(
    idata: az.InferenceData,
    contexts: np.ndarray,
    *,
    matching: Matching | None = None,
    prob: float = 0.9,
    group: str = "posterior",
    max_bytes: int = MAX_BYTES,
) -> xr.Dataset:
    """Summarise the attention weights of matched heads.

    Parameters
    ----------
    idata : InferenceData
    contexts : ndarray of int, (sequence, position)
        0-based tokens.
    matching : Matching, optional
        The matching of the same group; by default that of `head_order`. For the prior, use a
        matching with that of the posterior as its reference.
    prob : float
        Mass of the intervals.
    group : {"posterior", "prior"}
    max_bytes : int
        Approximate bound on memory. Contexts are processed in blocks of at least one.

    Returns
    -------
    Dataset (layer, head, sequence, query_position, key_position)
        As of `gptbayes.stats.summary.summarise`. ``above_uniform``, the probability that a weight
        exceeds the uniform weight 1/t of row t, and its Monte Carlo standard error
        ``above_uniform_mcse``. ``effective_positions`` (layer, head, sequence, query_position),
        the exponential of the entropy of a row, between 1 and t: the number of positions with
        equal weights that have the same entropy (Hill 1973, order 1); with
        ``effective_positions_`` lower, upper, mcse, ess_bulk, ess_tail and r_hat. ``ambiguous``
        (layer) and ``ambiguous_mcse`` as in `Matching`. The coord ``text`` (sequence) holds the
        contexts.

        Constant weights have sd 0 and nan for ``ess_bulk``, ``ess_tail`` and ``r_hat``: those on
        future positions, that of the first position on itself, and those that a dropout mask sets
        to 0. With dropout, weights are those after the mask and rows do not sum to one;
        ``effective_positions`` is that of the row divided by its sum, and nan if all its weights
        are masked.

    Raises
    ------
    ValueError
        If the stage has no attention, contexts have an invalid shape, or the matching is that of
        other draws.

    See Also
    --------
    attention_rollout : Attention through all layers.
    gptbayes.plots.plot_attention : The figure.

    Examples
    --------
    >>> import tempfile
    >>> import gptbayes as gb
    >>> problem = gb.make_problem(gb.stage("05"), gb.zen_of_python(), batch_size=11)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     idata = gb.open_run(gb.fit.prior(problem, folder, draws=20))
    >>> summary = summarise_attention(idata, problem.held_out.x[:2])
    >>> float(summary["mean"].isel(sequence=0, layer=0, head=0)[0, 0])  # the first position
    1.0
    """
    problem = problem_with_attention(idata)
    contexts = checked_contexts(problem, contexts)
    matching = head_order(idata, group=group) if matching is None else matching
    parameters, order = draws_of(idata, group), matching.order.values
    past = past_mask(contexts.shape[1])
    size = 8 * order.size * max(int(past.sum()), 1) * COPIES
    step = max(1, int(max_bytes // size))
    parts = []
    for start in range(0, len(contexts), step):
        some = contexts[start : start + step]
        weights = _past_weights(problem.stage, parameters, some, past)
        weights = labelled(
            idata, group, reordered(weights, order), "layer", "head", "sequence", "weight"
        )
        parts.append(_summarised(weights, past, prob))
    summary = xr.concat(parts, "sequence", data_vars="all", combine_attrs="override")
    summary = summary.transpose("layer", "head", "sequence", ...)
    summary = summary.assign(ambiguous=matching.ambiguous, ambiguous_mcse=matching.ambiguous_mcse)
    return summary.assign_coords(context_coords(problem, contexts))


def _past_weights(stage, parameters, contexts, past):
    """Weights (chain, draw, layer, head, sequence, weight) of `past_mask`, row by row.

    The weight of the first position on itself, which is 1 without a dropout mask, comes last.
    """

    def of_chunk(chunk):
        weights = attention_of(stage, chunk, contexts)
        return np.concatenate([weights[..., past], weights[..., :1, 0]], axis=-1)

    return over_draws(stage, parameters, contexts, of_chunk)


def _summarised(weights, past, prob):
    """Summaries of some contexts, with weights in rows and columns."""
    found = summarise(weights, prob=prob, exact_constants=True)
    query = np.append(np.nonzero(past)[0], 0)
    uniform = xr.DataArray(1 / (query + 1), dims="weight")
    likely = probability(weights > uniform, effective=found["ess_bulk"])
    found["above_uniform"], found["above_uniform_mcse"] = likely["probability"], likely["mcse"]
    rows = _effective_positions(weights, query, len(past))
    about = summarise(rows, prob=prob, exact_constants=True)
    square = xr.Dataset({name: _in_square(each, past) for name, each in found.items()})
    names = {name: f"effective_positions_{name.removesuffix('_mean')}" for name in STATISTICS}
    about = about.rename({**names, "mean": "effective_positions", "sd": "effective_positions_sd"})
    return square.merge(about).assign_attrs(prob=prob)


def _effective_positions(weights, query, n):
    """Exponential of the entropy of each row, (..., query_position)."""
    values = weights.values
    rows = np.empty((*values.shape[:-1], n))
    for t in range(n):
        row = values[..., query == t]
        total = row.sum(axis=-1)
        with np.errstate(divide="ignore", invalid="ignore"):
            share = row / total[..., None]
            logs = np.where(share > 0, np.log(share), 0.0)
        rows[..., t] = np.exp(-(share * logs).sum(axis=-1))  # nan where all weights are masked
    dims = (*weights.dims[:-1], "query_position")
    return xr.DataArray(rows, dims=dims)


def _in_square(values, past):
    """Values of weights in the order of `_past_weights` as (..., query, key).

    Values of future positions are 0, and nan for ESS and R-hat.
    """
    nothing = values.name in ("ess_bulk", "ess_tail", "r_hat") or bool(np.isnan(values).all())
    square = np.full((*values.shape[:-1], *past.shape), np.nan if nothing else 0.0)
    square[..., past] = values.values[..., :-1]
    square[..., 0, 0] = values.values[..., -1]
    return (*values.dims[:-1], "query_position", "key_position"), square
