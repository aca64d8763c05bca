"""What becomes of a prediction when a head or a position is taken away.

Attention is not explanation (Jain & Wallace 2019): a position may be looked at and matter nothing,
because what it passes on is small or cancels. The control is to take it away and to see what that
costs the prediction of the character that did come.
"""

from __future__ import annotations

from typing import NamedTuple

import arviz as az
import numpy as np
import xarray as xr
from scipy.special import log_softmax
from scipy.stats import rankdata

from gptbayes.attention.contexts import (
    SOURCES,
    checked_contexts,
    draws_of,
    labelled,
    problem_with_attention,
)
from gptbayes.attention.matching import Matching, head_order, matched
from gptbayes.attention.rollout import rollout
from gptbayes.model.forward import MAX_BYTES, forward, last_logits, over_draws
from gptbayes.stats.probability import prob_greater, probability
from gptbayes.stats.summary import side_by_side, summarise

NO_COST = 1e-12
"""In nats: a smaller cost is none, up to rounding."""


class HeadAblation(NamedTuple):
    """What predictions lose without a head, in nats per character; positive if it helped.

    Attributes
    ----------
    average : Dataset (source, layer, head)
        Mean over contexts and positions, for the sources "posterior" and "prior": the statistics
        of `gptbayes.stats.summary.summarise`; ``prob_positive``, the probability that removal costs
        anything, with ``prob_positive_mcse``; ``se_contexts``, the standard error of the mean from
        the choice of contexts, which the interval, given these contexts, does not have. Without
        the dim source ``exceeds_prior`` and ``exceeds_prior_mcse``: the probability
        that it costs a posterior draw more than a prior draw.
    contexts : Dataset (source, layer, head, sequence)
        The statistics of `gptbayes.stats.summary.summarise` for each context, mean over its
        positions. Coord ``text`` (sequence).
    ambiguous : DataArray (source, layer)
        Share of draws whose matching is ambiguous, see `gptbayes.attention.Matching`.
    """

    average: xr.Dataset
    contexts: xr.Dataset
    ambiguous: xr.DataArray


class PositionAblation(NamedTuple):
    """What the prediction after a context loses without one of its positions, in nats.

    Attributes
    ----------
    average : Dataset (source, position)
        As that of `HeadAblation`, mean over contexts. Coord ``back`` (position) counts from the
        last position, which predicts: 1 is the character before it.
    contexts : Dataset (source, sequence, position)
        The same for each context.
    agreement : Dataset (source, measure)
        Of each draw and context the rank correlation (Spearman) over positions between what
        attention gives them from the last position and the size, without its sign, of what their
        removal does; the mean over contexts. 0 where attention or effect ranks nothing. For the
        measures "mean over heads" (and layers) and, with several layers, "rollout". Statistics
        as in ``average``, with ``above_zero`` and ``above_zero_mcse`` in place of
        ``prob_positive``.
    """

    average: xr.Dataset
    contexts: xr.Dataset
    agreement: xr.Dataset


def ablate_heads(
    idata: az.InferenceData,
    contexts: np.ndarray,
    next_tokens: np.ndarray,
    *,
    matching: Matching | None = None,
    prob: float = 0.9,
    max_bytes: int = MAX_BYTES,
) -> HeadAblation:
    """What removing a head costs: its values are set to zero, so that it passes on nothing.

    Parameters
    ----------
    idata : InferenceData
    contexts, next_tokens : ndarray of int, (sequence, position)
        0-based tokens and what came after each, as in `gptbayes.corpus.Windows`.
    matching : Matching, optional
        Of the posterior; by default `gptbayes.attention.head_order`. The prior's draws are
        assigned to its reference.
    prob : float
        Mass of the intervals.
    max_bytes : int
        Rough bound on the activations held at any time.

    Returns
    -------
    HeadRemoval

    Raises
    ------
    ValueError
        For a stage without attention, or tokens that do not fit.
    """
    problem = problem_with_attention(idata)
    contexts, next_tokens = _checked(problem, contexts, next_tokens)
    matching = head_order(idata) if matching is None else matching
    prior = head_order(idata, group="prior", reference=matching)
    draws = {}
    for source, order in zip(SOURCES, (matching, prior), strict=True):
        costs = _head_costs(
            problem.stage, draws_of(idata, source), contexts, next_tokens, max_bytes
        )
        costs = labelled(idata, source, costs, "layer", "head", "sequence")
        draws[source] = matched(costs, order)
    names = xr.DataArray(list(SOURCES), dims="source", name="source")
    return HeadAblation(
        _average(draws, prob, "prob_positive"),
        _of_contexts(draws, prob, problem, contexts),
        xr.concat([matching.ambiguous, prior.ambiguous], names),
    )


def ablate_positions(
    idata: az.InferenceData,
    contexts: np.ndarray,
    next_tokens: np.ndarray,
    *,
    prob: float = 0.9,
    max_bytes: int = MAX_BYTES,
) -> PositionAblation:
    """What removing a position costs the prediction of the character after the context.

    No other position may look at it, in any layer; what they would have given it goes to the
    others in proportion. The last position predicts and always sees itself: it is not removed.

    Parameters
    ----------
    idata : InferenceData
    contexts, next_tokens : ndarray of int, (sequence, position)
        0-based tokens and what came after each, as in `gptbayes.corpus.Windows`; of the latter
        the last column counts.
    prob, max_bytes
        As for `ablate_heads`.

    Returns
    -------
    PositionRemoval

    Raises
    ------
    ValueError
        For a stage without attention, tokens that do not fit, or contexts of one position.
    """
    problem = problem_with_attention(idata)
    contexts, next_tokens = _checked(problem, contexts, next_tokens)
    n = contexts.shape[1]
    if n < 2:
        raise ValueError(f"contexts must have at least 2 positions to remove one, got {n}")
    costs, agreement = {}, {}
    for source in SOURCES:
        parameters = draws_of(idata, source)
        values = _position_costs(problem.stage, parameters, contexts, next_tokens, max_bytes)
        costs[source] = labelled(idata, source, values[..., 0], "sequence", "position")
        looked = labelled(idata, source, values[..., 1:], "sequence", "position", "measure")
        agreement[source] = _rank_correlation(looked, costs[source])
    back = xr.DataArray(n - 1 - np.arange(n - 1), dims="position")
    return PositionAblation(
        _average(costs, prob, "prob_positive").assign_coords(back=back),
        _of_contexts(costs, prob, problem, contexts).assign_coords(back=back),
        _average(agreement, prob, "above_zero"),
    )


def max_contexts(n_contexts: int, n_positions: int) -> int:
    """How many contexts take about as long to take positions from as 50 of eight characters.

    Every position of every context is one forward pass of all draws, whose work grows with the
    square of the positions.

    Parameters
    ----------
    n_contexts : int
        At most so many.
    n_positions : int
    """
    as_long = 50 * (8 / n_positions) ** 2
    return min(n_contexts, max(8, round(as_long)))


def without_head(parameters: dict[str, np.ndarray], layer: int, head: int) -> dict[str, np.ndarray]:
    """Parameters with the values of one head set to zero; everything else is shared.

    Parameters
    ----------
    parameters : dict of str to ndarray
        Each ``(..., dims of that parameter)``.
    layer, head : int
    """
    value = parameters["value"].copy()
    value[..., layer, head, :, :] = 0.0
    return {**parameters, "value": value}


def _checked(problem, contexts, next_tokens):
    contexts, next_tokens = checked_contexts(problem, contexts), np.asarray(next_tokens)
    if next_tokens.shape != contexts.shape:
        raise ValueError(
            f"next_tokens must have the shape of contexts, {contexts.shape}, "
            f"got {next_tokens.shape}"
        )
    return contexts, next_tokens


def _head_costs(stage, parameters, contexts, next_tokens, max_bytes):
    """Nats per character lost without a head (chain, draw, layer, head, sequence), own order."""
    n_layer, n_head = parameters["key"].shape[2:4]

    def of_chunk(chunk):
        whole = _log_prob(forward(stage, chunk, contexts).logits, next_tokens)
        costs = np.empty((len(whole), n_layer, n_head, len(contexts)))
        for layer, head in np.ndindex(n_layer, n_head):
            part = forward(stage, without_head(chunk, layer, head), contexts).logits
            costs[:, layer, head] = (whole - _log_prob(part, next_tokens)).mean(axis=-1)
        return costs

    return over_draws(stage, parameters, contexts, of_chunk, max_bytes=max_bytes)


def _position_costs(stage, parameters, contexts, next_tokens, max_bytes):
    """Nats lost without a position, and what attention gives it from the last position.

    (chain, draw, sequence, position, 1 + measure)
    """
    n_layer, n = parameters["key"].shape[2], contexts.shape[1]
    residual = "residual" in stage.features

    def of_chunk(chunk):
        activations = forward(stage, chunk, contexts)
        attention = activations.attention_weights
        whole = _log_prob(activations.logits[..., -1, :], next_tokens[:, -1])
        costs = np.empty((*whole.shape, n - 1))
        for s in range(n - 1):
            blocked = np.zeros(contexts.shape, dtype=bool)
            blocked[:, s] = True
            part = last_logits(stage, chunk, contexts, blocked=blocked)
            costs[..., s] = whole - _log_prob(part, next_tokens[:, -1])
        columns = [costs, attention.mean(axis=(-5, -4))[..., -1, :-1]]
        if n_layer > 1:
            columns.append(rollout(attention, residual=residual)[..., -1, :-1])
        return np.stack(columns, axis=-1)

    return over_draws(stage, parameters, contexts, of_chunk, max_bytes=max_bytes)


def _log_prob(logits, next_tokens):
    log_probs = log_softmax(logits, axis=-1)
    return np.take_along_axis(log_probs, next_tokens[None, ..., None], axis=-1)[..., 0]


def _rank_correlation(looked, costs):
    """Spearman's over positions between attention and |cost| (chain, draw, sequence, measure)."""
    size = abs(costs).where(abs(costs) > NO_COST, 0.0)
    ranks = [rankdata(each, axis=3) for each in (looked.values, size.values[..., None])]
    a, b = (each - each.mean(axis=3, keepdims=True) for each in ranks)
    scale = np.sqrt((a**2).sum(axis=3) * (b**2).sum(axis=3))
    values = np.divide((a * b).sum(axis=3), scale, out=np.zeros_like(scale), where=scale > 0)
    measures = ["mean over heads", "rollout"][: values.shape[-1]]
    found = looked.isel(position=0, drop=True)
    return found.copy(data=values).assign_coords(measure=measures)


def _average(draws, prob, sign):
    """Statistics of the mean over contexts, by source, and the comparison with the prior."""
    tables, means = {}, {}
    for source, each in draws.items():
        means[source] = each.mean("sequence")
        table = summarise(means[source], prob=prob, exact_constants=True)
        likely = probability(means[source] > NO_COST, effective=table["ess_bulk"])
        per_context = each.mean(("chain", "draw"))
        n = per_context.sizes["sequence"]
        spread = per_context.std("sequence", ddof=1) if n > 1 else np.nan * table["mean"]
        tables[source] = table.assign(
            {
                sign: likely["probability"],
                f"{sign}_mcse": likely["mcse"],
                "se_contexts": spread / np.sqrt(n),
            }
        )
    more = prob_greater(means["posterior"], means["prior"])
    table = side_by_side(tables)
    return table.assign(exceeds_prior=more["probability"], exceeds_prior_mcse=more["mcse"])


def _of_contexts(draws, prob, problem, contexts):
    tables = {
        source: summarise(each, prob=prob, exact_constants=True) for source, each in draws.items()
    }
    text = [problem.vocabulary.decode(context) for context in contexts]
    return side_by_side(tables).assign_coords(text=("sequence", text))
