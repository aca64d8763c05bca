"""Roles of heads: attention to detection patterns in excess of uniform attention."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import arviz as az
import numpy as np
import xarray as xr

from gptbayes.attention.contexts import checked_contexts, draws_of, labelled, problem_with_attention
from gptbayes.attention.detection_patterns import DETECTION_PATTERNS
from gptbayes.attention.matching import (
    Matching,
    head_order,
    match_posterior_and_prior,
    matched,
)
from gptbayes.attention.prior_comparison import summarise_with_prior
from gptbayes.model.forward import MAX_BYTES, attention_of, over_draws
from gptbayes.stats.probability import probability
from gptbayes.stats.summary import side_by_side

N_CONTEXTS = 50
"""Default number of held-out contexts."""
TIE = 1e-12
"""An excess that is smaller is zero up to rounding error."""


class Roles(NamedTuple):
    """Attention of heads to detection patterns, posterior and prior.

    The excess of a head for a pattern is the total attention weight on the positions of the
    pattern minus that of uniform attention under the same dropout mask. It is averaged over
    contexts and over the query positions that can attend to positions both in and outside the
    pattern. It is between -1 and 1, and 0 for uniform attention.

    Attributes
    ----------
    heads : Dataset (source, role, layer, head)
        For matched heads, the statistics of `gptbayes.stats.summary.summarise` of the excess;
        ``probability``, the probability that the head has the largest excess of all heads and
        layers and that it is positive, with ``probability_mcse``; ``above_uniform``, the
        probability that the excess is positive, with ``above_uniform_mcse``. Without the dim
        source, ``exceeds_prior`` and ``exceeds_prior_mcse``: the probability that the excess of a
        posterior draw is larger than that of a prior draw. Heads of prior draws are matched to
        those of the posterior.
    ranks : Dataset (source, role, rank)
        The same statistics of the largest, second largest, ... excess over all heads and layers of
        each draw, which do not depend on matching.
    no_head : Dataset (source, role)
        ``probability`` that no head has a positive excess, and its Monte Carlo standard error
        ``mcse``.
    ambiguous, ambiguous_mcse : DataArray (source, layer)
        Fraction of draws with an ambiguous matching, see `Matching`, and its Monte Carlo standard
        error.
    absent : tuple of str
        Patterns that do not occur in the contexts, or for which no query position can attend both
        to positions in and outside the pattern.
    """

    heads: xr.Dataset
    ranks: xr.Dataset
    no_head: xr.Dataset
    ambiguous: xr.DataArray
    ambiguous_mcse: xr.DataArray
    absent: tuple[str, ...]


def head_roles(
    idata: az.InferenceData,
    matching: Matching | None = None,
    contexts: np.ndarray | None = None,
    *,
    patterns: Mapping[str, Callable[[str], np.ndarray]] = DETECTION_PATTERNS,
    prob: float = 0.9,
    max_bytes: int = MAX_BYTES,
) -> Roles:
    """Summarise the attention of matched heads to detection patterns.

    Parameters
    ----------
    idata : InferenceData
    matching : Matching, optional
        The matching of the posterior; by default that of `head_order`. Prior draws are assigned
        to its reference.
    contexts : ndarray of int, (sequence, position), optional
        0-based tokens; by default the first 50 held-out windows.
    patterns : mapping of str to callable
        Functions of a text, as in `gptbayes.attention.detection_patterns`.
    prob : float
        Mass of the intervals.
    max_bytes : int
        Approximate bound on the memory of activations.

    Returns
    -------
    Roles

    Raises
    ------
    ValueError
        If the stage has no attention, or no pattern occurs in the contexts.

    See Also
    --------
    gptbayes.attention.role_sentences : The same as sentences.
    gptbayes.plots.plot_roles, gptbayes.plots.plot_role_excess : Figures.

    Examples
    --------
    >>> import tempfile
    >>> import gptbayes as gb
    >>> problem = gb.make_problem(gb.stage("05"), gb.zen_of_python(), batch_size=11)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     idata = gb.open_run(gb.fit.prior(problem, folder, draws=20))
    >>> roles = head_roles(idata)
    >>> sorted(roles.heads["role"].values.tolist())[:3]
    ['current token', 'current word', 'duplicate token']
    """
    problem = problem_with_attention(idata)
    contexts = problem.held_out.x[:N_CONTEXTS] if contexts is None else contexts
    contexts = checked_contexts(problem, contexts)
    matchings = match_posterior_and_prior(idata, matching)
    settings: dict[str, Any] = {"patterns": patterns, "max_bytes": max_bytes}
    draws = {
        source: role_draws(idata, contexts, matching=order, group=source, **settings)
        for source, order in matchings.items()
    }
    occur = draws["posterior"]["role"].values
    ranked = {source: _ranked(each) for source, each in draws.items()}
    compared: dict[str, Any] = {"positive": "above_uniform", "tolerance": TIE}
    heads = summarise_with_prior(draws, prob, **compared).merge(_top_head_probability(draws))
    return Roles(
        heads=heads.transpose("source", "role", "layer", "head"),
        ranks=summarise_with_prior(ranked, prob, **compared).transpose("source", "role", "rank"),
        no_head=side_by_side(
            {source: probability(each.max("rank") <= TIE) for source, each in ranked.items()}
        ),
        ambiguous=side_by_side({s: each.ambiguous for s, each in matchings.items()}),
        ambiguous_mcse=side_by_side({s: each.ambiguous_mcse for s, each in matchings.items()}),
        absent=tuple(name for name in patterns if name not in occur),
    )


def role_draws(
    idata: az.InferenceData,
    contexts: np.ndarray,
    *,
    matching: Matching | None = None,
    group: str = "posterior",
    patterns: Mapping[str, Callable[[str], np.ndarray]] = DETECTION_PATTERNS,
    max_bytes: int = MAX_BYTES,
) -> xr.DataArray:
    """Compute the excess attention to detection patterns for each draw, see `Roles`.

    Parameters
    ----------
    idata : InferenceData
    contexts : ndarray of int, (sequence, position)
        0-based tokens.
    matching : Matching, optional
        The matching of the same group; by default that of `head_order`.
    group : {"posterior", "prior"}
    patterns : mapping of str to callable
        As in `head_roles`.
    max_bytes : int
        Approximate bound on the memory of activations.

    Returns
    -------
    DataArray (chain, draw, layer, head, role)

    Raises
    ------
    ValueError
        As `head_roles`.

    See Also
    --------
    head_roles : Summaries of these draws.
    """
    problem = problem_with_attention(idata)
    pattern_weights = _pattern_weights(problem, checked_contexts(problem, contexts), patterns)
    matching = head_order(idata, group=group) if matching is None else matching
    return matched(
        _excess(idata, group, np.asarray(contexts), pattern_weights, max_bytes), matching
    )


def attention_at_distance(weights: xr.DataArray, distance: int) -> xr.DataArray:
    """Compute the excess attention to the key position at some distance from the query.

    Parameters
    ----------
    weights : DataArray (..., query_position, key_position)
    distance : int
        0 for the current token, 1 for the previous token.

    Returns
    -------
    DataArray (...)
        The weight minus that of uniform attention, averaged over the query positions from the
        second on that have such a key position. 0 for uniform attention.

    Raises
    ------
    ValueError
        If there is no such pair of positions.

    Examples
    --------
    >>> dims = ("query_position", "key_position")
    >>> uniform = xr.DataArray(np.tri(4) / np.arange(1, 5)[:, None], dims=dims)
    >>> float(attention_at_distance(uniform, 1))
    0.0
    """
    n = weights.sizes["query_position"]
    first = max(1, distance)
    if not 0 <= distance < n or first >= n:
        raise ValueError(f"distance must be between 0 and {n - 1}, got {distance}")
    query = xr.DataArray(np.arange(first, n), dims="query_position")
    attended = weights.isel(query_position=query, key_position=query - distance)
    return (attended - 1 / (query + 1)).mean("query_position")


class _PatternWeights(NamedTuple):
    """A linear map from attention weights to the excess for each role."""

    names: tuple[str, ...]
    weights: np.ndarray  # (layer, head, sequence * query * key, role); 1, 1 without a mask
    uniform: np.ndarray  # (layer, head, role), of uniform attention; nan if undefined


def _pattern_weights(problem, contexts, patterns):
    """The mean over contexts and query positions of attention to patterns, as a linear map."""
    texts = [problem.vocabulary.decode(context) for context in contexts]
    present = np.array([[f(text) for text in texts] for f in patterns.values()])  # (role, B, T, T)
    n = contexts.shape[1]
    masks = np.ones((1, 1, n, n))
    if _drops_weights(problem.stage):
        masks = np.asarray(problem.stage.masks.attention)[:, :, :n, :n]
    masks = (masks * np.tri(n))[:, :, None, None]  # (L, H, 1, 1, T, T)
    total = np.maximum(masks.sum(axis=-1), 1e-300)
    uniform = (present * masks).sum(axis=-1) / total  # (L, H, role, B, T)
    choice = (uniform > TIE) & (uniform < 1 - TIE)
    n_choices = choice.sum(axis=(-1, -2))  # (L, H, role)
    with np.errstate(invalid="ignore", divide="ignore"):
        expected = (uniform * choice).sum(axis=(-1, -2)) / n_choices
        weights = present * choice[..., None] / n_choices[..., None, None, None]
    kept = n_choices.any(axis=(0, 1))
    names = tuple(name for name, keep in zip(patterns, kept, strict=True) if keep)
    if not names:
        raise ValueError(f"patterns must occur in the contexts, got {', '.join(patterns)}")
    weights = np.moveaxis(weights[:, :, kept], 2, -1)  # (L, H, B, T, T, role)
    weights = weights.reshape(*weights.shape[:2], contexts.size * n, len(names))
    return _PatternWeights(names, np.nan_to_num(weights), expected[:, :, kept])


def _excess(idata, source, contexts, pattern_weights, max_bytes):
    """Excess attention (chain, draw, layer, head, role), heads not matched."""
    stage = problem_with_attention(idata).stage

    def of_chunk(chunk):
        weights = attention_of(stage, chunk, contexts)  # (draw, L, H, B, T, T)
        if _drops_weights(stage):
            total = weights.sum(axis=-1, keepdims=True)
            weights = np.divide(weights, total, out=np.zeros_like(weights), where=total > 0)
        rows = weights.reshape(*weights.shape[:3], -1)  # (draw, L, H, B T T)
        if pattern_weights.weights.shape[:2] == (1, 1):  # one product for all heads
            one = rows.reshape(-1, rows.shape[-1]) @ pattern_weights.weights[0, 0]
            return one.reshape(*rows.shape[:3], -1) - pattern_weights.uniform
        each = np.moveaxis(rows, 0, 2) @ pattern_weights.weights  # (L, H, draw, role)
        return np.moveaxis(each, 2, 0) - pattern_weights.uniform

    values = over_draws(stage, draws_of(idata, source), contexts, of_chunk, max_bytes=max_bytes)
    found = labelled(idata, source, values, "layer", "head", "role")
    return found.assign_coords(role=list(pattern_weights.names))


def _drops_weights(stage):
    return stage.masks is not None and bool((np.asarray(stage.masks.attention) != 1).any())


def _ranked(draws):
    """Sort over all heads and layers, largest first, (chain, draw, role, rank)."""
    flat = draws.stack(rank=("layer", "head")).transpose("chain", "draw", "role", "rank")
    return flat.drop_vars(["rank", "layer", "head"]).copy(data=-np.sort(-flat.values, axis=-1))


def _top_head_probability(draws):
    """Probability that the excess of a head is the largest of all heads, and positive."""
    tables = {}
    for source, each in draws.items():
        largest = each.max(("layer", "head"))
        is_top = (each == largest) & (each > TIE)
        tables[source] = probability(is_top).rename(mcse="probability_mcse")
    return side_by_side(tables)
