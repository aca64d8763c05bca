"""Zero ablation of heads and attention knockout of positions.

Attention is not explanation (Jain & Wallace 2019): a position with a large weight may have no
effect on the prediction, because its value is small or cancels. An ablation measures the effect:
the decrease of the log probability of the observed next character.
"""

from __future__ import annotations

from typing import NamedTuple

import arviz as az
import numpy as np
import xarray as xr
from scipy.stats import rankdata

from gptbayes.attention.contexts import (
    SOURCES,
    checked_contexts,
    draws_of,
    labelled,
    problem_with_attention,
)
from gptbayes.attention.matching import Matching, match_posterior_and_prior, matched
from gptbayes.attention.prior_comparison import summarise_with_prior
from gptbayes.attention.rollout import rollout_weights
from gptbayes.model.ablated import ablate_each_head, knock_out_each_position
from gptbayes.model.forward import MAX_BYTES, over_draws
from gptbayes.model.layers import log_softmax
from gptbayes.stats.standard_error import standard_error
from gptbayes.stats.summary import OVER, side_by_side, summarise

ROUNDING = 1e-12
"""A cost in nats that is smaller is zero up to rounding error."""


class HeadAblation(NamedTuple):
    """The cost of zero ablation of each head, in nats per character.

    The cost is the decrease of the log probability of the next character. It is positive if the
    head improves predictions.

    Attributes
    ----------
    average : Dataset (source, layer, head)
        The mean over contexts and positions, for the sources "posterior" and "prior": the
        statistics of `gptbayes.stats.summary.summarise`; ``prob_positive``, the probability that
        the cost is positive, with ``prob_positive_mcse``; ``se_contexts``, the standard error of
        the mean due to the choice of contexts, which the intervals do not include. Without the dim
        source, ``exceeds_prior`` and ``exceeds_prior_mcse``: the probability that the cost is
        larger for a posterior draw than for a prior draw.
    contexts : Dataset (source, layer, head, sequence)
        The statistics of `gptbayes.stats.summary.summarise` for each context, mean over its
        positions. The coord ``text`` (sequence) holds the contexts.
    ambiguous : DataArray (source, layer)
        Fraction of draws with an ambiguous matching, see `gptbayes.attention.Matching`.
    """

    average: xr.Dataset
    contexts: xr.Dataset
    ambiguous: xr.DataArray


class PositionAblation(NamedTuple):
    """The cost of attention knockout of each position, in nats.

    The cost is the decrease of the log probability of the character after the context.

    Attributes
    ----------
    average : Dataset (source, position)
        The mean over contexts, as in `HeadAblation`. The coord ``distance`` (position) is the
        distance from the last position, at which the prediction is made.
    contexts : Dataset (source, sequence, position)
        The same for each context.
    agreement : Dataset (source, measure)
        The rank correlation (Spearman) over positions between the attention weights of the last
        position and the absolute cost, mean over contexts; 0 if weights or costs are all equal.
        The measures of attention are "mean over heads" (and layers) and, with several layers,
        "rollout". Statistics as in ``average``, with ``above_zero`` and ``above_zero_mcse`` in
        place of ``prob_positive``.
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
    """Compute the cost of zero ablation of each head: its values are set to zero.

    Parameters
    ----------
    idata : InferenceData
    contexts, next_tokens : ndarray of int, (sequence, position)
        0-based tokens and the token after each, as in `gptbayes.corpus.Windows`.
    matching : Matching, optional
        The matching of the posterior; by default that of `head_order`. Prior draws are assigned
        to its reference.
    prob : float
        Mass of the intervals.
    max_bytes : int
        Approximate bound on the memory of activations.

    Returns
    -------
    HeadAblation

    Raises
    ------
    ValueError
        If the stage has no attention, or contexts and next tokens have invalid shapes.

    See Also
    --------
    ablate_positions : Knockout of positions.
    gptbayes.plots.plot_ablation : The figure.

    Examples
    --------
    >>> import tempfile
    >>> import gptbayes as gb
    >>> problem = gb.make_problem(gb.stage("05"), gb.zen_of_python(), batch_size=11)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     idata = gb.open_run(gb.fit.prior(problem, folder, draws=20))
    >>> x, y = problem.held_out
    >>> ablation = ablate_heads(idata, x[:3], y[:3])
    >>> ablation.average["mean"].dims
    ('source', 'layer', 'head')
    """
    problem = problem_with_attention(idata)
    contexts, next_tokens = _checked(problem, contexts, next_tokens)
    matchings = match_posterior_and_prior(idata, matching)
    draws = {}
    for source, order in matchings.items():
        costs = _head_costs(
            problem.stage, draws_of(idata, source), contexts, next_tokens, max_bytes
        )
        costs = labelled(idata, source, costs, "layer", "head", "sequence")
        draws[source] = matched(costs, order)
    return HeadAblation(
        _average(draws, prob, "prob_positive"),
        _of_contexts(draws, prob, problem, contexts),
        side_by_side({source: each.ambiguous for source, each in matchings.items()}),
    )


def ablate_positions(
    idata: az.InferenceData,
    contexts: np.ndarray,
    next_tokens: np.ndarray,
    *,
    prob: float = 0.9,
    max_bytes: int = MAX_BYTES,
) -> PositionAblation:
    """Compute the cost of attention knockout of each position.

    The attention weights of all other positions on this position are set to zero before the
    softmax, in all layers (Geva et al. 2023), so that the remaining weights sum to one. The last
    position, at which the prediction is made, is not knocked out.

    Parameters
    ----------
    idata : InferenceData
    contexts, next_tokens : ndarray of int, (sequence, position)
        0-based tokens and the token after each, as in `gptbayes.corpus.Windows`. Only the last
        column of the next tokens is used.
    prob, max_bytes
        As in `ablate_heads`.

    Returns
    -------
    PositionAblation

    Raises
    ------
    ValueError
        If the stage has no attention, contexts and next tokens have invalid shapes, or contexts
        have only one position.

    See Also
    --------
    ablate_heads : Ablation of heads.
    max_contexts : A number of contexts that bounds the computing time.
    """
    problem = problem_with_attention(idata)
    contexts, next_tokens = _checked(problem, contexts, next_tokens)
    n = contexts.shape[1]
    if n < 2:
        raise ValueError(f"contexts must have at least 2 positions for a knockout, got {n}")
    costs, agreement = {}, {}
    for source in SOURCES:
        parameters = draws_of(idata, source)
        values = _position_costs(problem.stage, parameters, contexts, next_tokens, max_bytes)
        costs[source] = labelled(idata, source, values[..., 0], "sequence", "position")
        attended = labelled(idata, source, values[..., 1:], "sequence", "position", "measure")
        agreement[source] = _rank_correlation(attended, costs[source])
    distance = xr.DataArray(n - 1 - np.arange(n - 1), dims="position")
    return PositionAblation(
        _average(costs, prob, "prob_positive").assign_coords(distance=distance),
        _of_contexts(costs, prob, problem, contexts).assign_coords(distance=distance),
        _average(agreement, prob, "above_zero"),
    )


def max_contexts(n_contexts: int, n_positions: int) -> int:
    """Return a number of contexts for which `ablate_positions` takes about constant time.

    The time is that of 50 contexts of eight characters. Each position of each context takes one
    forward pass of all draws, and the time of a forward pass grows with the number of positions.

    Parameters
    ----------
    n_contexts : int
        Upper bound.
    n_positions : int
        Length of the contexts.

    Returns
    -------
    int
        At least 8 and at most ``n_contexts``.

    Examples
    --------
    >>> max_contexts(100, 8), max_contexts(100, 16)
    (50, 12)
    """
    affordable = 50 * (8 / n_positions) ** 2
    return min(n_contexts, max(8, round(affordable)))


def _checked(problem, contexts, next_tokens):
    contexts, next_tokens = checked_contexts(problem, contexts), np.asarray(next_tokens)
    if next_tokens.shape != contexts.shape:
        raise ValueError(
            f"next_tokens must have the shape of contexts, {contexts.shape}, "
            f"got {next_tokens.shape}"
        )
    return contexts, next_tokens


def _head_costs(stage, parameters, contexts, next_tokens, max_bytes):
    """Costs in nats per character (chain, draw, layer, head, sequence), heads not matched."""
    n_layer, n_head = parameters["key"].shape[2:4]

    def of_chunk(chunk):
        logits, ablated = ablate_each_head(stage, chunk, contexts)
        full = _log_prob(logits, next_tokens)
        costs = np.empty((len(full), n_layer, n_head, len(contexts)))
        for layer, head, without in ablated:
            costs[:, layer, head] = (full - _log_prob(without, next_tokens)).mean(axis=-1)
        return costs

    return over_draws(stage, parameters, contexts, of_chunk, max_bytes=max_bytes)


def _position_costs(stage, parameters, contexts, next_tokens, max_bytes):
    """Costs in nats, and attention weights of the last position on each position.

    (chain, draw, sequence, position, 1 + measure)
    """
    n_layer, n = parameters["key"].shape[2], contexts.shape[1]
    residual = "residual" in stage.features

    def of_chunk(chunk):
        activations, ablated = knock_out_each_position(stage, chunk, contexts)
        attention = activations.attention_weights
        full = _log_prob(activations.logits[..., -1, :], next_tokens[:, -1])
        costs = np.empty((*full.shape, n - 1))
        for s, without in enumerate(ablated):
            costs[..., s] = full - _log_prob(without, next_tokens[:, -1])
        columns = [costs, attention.mean(axis=(-5, -4))[..., -1, :-1]]
        if n_layer > 1:
            columns.append(rollout_weights(attention, residual=residual)[..., -1, :-1])
        return np.stack(columns, axis=-1)

    return over_draws(stage, parameters, contexts, of_chunk, max_bytes=max_bytes)


def _log_prob(logits, next_tokens):
    log_probs = log_softmax(logits)
    return np.take_along_axis(log_probs, next_tokens[None, ..., None], axis=-1)[..., 0]


def _rank_correlation(attended, costs):
    """Rank correlation of attention and |cost| over positions (chain, draw, sequence, measure)."""
    size = abs(costs).where(abs(costs) > ROUNDING, 0.0)
    ranks = [rankdata(each, axis=3) for each in (attended.values, size.values[..., None])]
    a, b = (each - each.mean(axis=3, keepdims=True) for each in ranks)
    scale = np.sqrt((a**2).sum(axis=3) * (b**2).sum(axis=3))
    values = np.divide((a * b).sum(axis=3), scale, out=np.zeros_like(scale), where=scale > 0)
    measures = ["mean over heads", "rollout"][: values.shape[-1]]
    found = attended.isel(position=0, drop=True)
    return found.copy(data=values).assign_coords(measure=measures)


def _average(draws, prob, sign):
    """Statistics of the mean over contexts, and the comparison with the prior."""
    means = {source: each.mean("sequence") for source, each in draws.items()}
    table = summarise_with_prior(means, prob, positive=sign, tolerance=ROUNDING)
    errors = {source: _error_of_contexts(each) for source, each in draws.items()}
    return table.assign(se_contexts=side_by_side(errors))


def _error_of_contexts(draws):
    """Standard error of the mean over contexts; nan for a single one."""
    return xr.apply_ufunc(standard_error, draws.mean(OVER), input_core_dims=[["sequence"]])


def _of_contexts(draws, prob, problem, contexts):
    tables = {
        source: summarise(each, prob=prob, exact_constants=True) for source, each in draws.items()
    }
    text = [problem.vocabulary.decode(context) for context in contexts]
    return side_by_side(tables).assign_coords(text=("sequence", text))
