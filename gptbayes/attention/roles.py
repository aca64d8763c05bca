"""Roles of heads: attention to detection patterns in excess of uniform attention."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import arviz as az
import numpy as np
import xarray as xr

from gptbayes.attention.contexts import checked_contexts, draws_of, labelled, problem_with_attention
from gptbayes.attention.detection_patterns import DETECTION_PATTERNS
from gptbayes.attention.matching import MANY_AMBIGUOUS, Matching, head_order, matched
from gptbayes.findings import EFFECTIVE_DRAWS_LIMIT, ESS_LIMIT, R_HAT_LIMIT, probability_words
from gptbayes.model.forward import MAX_BYTES, forward, over_draws
from gptbayes.stats.probability import prob_greater, probability
from gptbayes.stats.summary import OVER, side_by_side, summarise

N_CONTEXTS = 50
"""Default number of held-out contexts."""
LEARNED_PROB = 0.95
"""A role counts as learned if P(posterior > prior) is above this or below one minus this."""
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
    role_sentences : The same as sentences.
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
    matching = head_order(idata) if matching is None else matching
    matchings = {
        "posterior": matching,
        "prior": head_order(idata, group="prior", reference=matching),
    }
    settings: dict[str, Any] = {"patterns": patterns, "max_bytes": max_bytes}
    draws = {
        source: role_draws(idata, contexts, matching=order, group=source, **settings)
        for source, order in matchings.items()
    }
    occur = draws["posterior"]["role"].values
    ranked = {source: _ranked(each) for source, each in draws.items()}
    heads = _compare_with_prior(draws, prob).merge(_top_head_probability(draws))
    return Roles(
        heads=heads.transpose("source", "role", "layer", "head"),
        ranks=_compare_with_prior(ranked, prob),
        no_head=side_by_side(
            {source: probability(each.max("rank") <= TIE) for source, each in ranked.items()}
        ),
        ambiguous=_by_source(matchings, "ambiguous"),
        ambiguous_mcse=_by_source(matchings, "ambiguous_mcse"),
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


class RoleSentence(NamedTuple):
    """A sentence about one role of one head.

    Attributes
    ----------
    role : str
    layer, head : int
        0-based.
    learned : bool
        Whether P(posterior > prior) is above 0.95 or below 0.05, by at least 20 effective draws:
        fewer that are dependent lie above the prior by chance.
    text : str
        The sentence, with the intervals of posterior and prior, and with warnings.
    """

    role: str
    layer: int
    head: int
    learned: bool
    text: str


def role_sentences(roles: Roles) -> Iterator[RoleSentence]:
    """State the excess of each head for each role, and whether it differs from the prior.

    Parameters
    ----------
    roles : Roles

    Yields
    ------
    RoleSentence
        By role, layer and head. Roles that are impossible for a head because of its dropout mask
        are omitted.
    """
    heads = roles.heads
    for role in heads["role"].values:
        for layer in range(heads.sizes["layer"]):
            for head in range(heads.sizes["head"]):
                one = heads.sel(role=role).isel(layer=layer, head=head)
                if np.isnan(one["mean"]).any():
                    continue
                p = float(one["exceeds_prior"])
                learned = _has_enough_draws(one.sel(source="posterior")) and not (
                    1 - LEARNED_PROB < p < LEARNED_PROB
                )
                overlap = float(roles.ambiguous.sel(source="posterior")[layer])
                where = f"layer {layer + 1}, " if heads.sizes["layer"] > 1 else ""
                text = _sentence(one, f"{where}head {head + 1}", str(role), learned)
                yield RoleSentence(
                    str(role), layer, head, learned, text + _role_warnings(one, overlap)
                )


def learned_sentences(roles: Roles) -> list[str]:
    """State which roles of matched heads differ from the prior, or that none does.

    Parameters
    ----------
    roles : Roles

    Returns
    -------
    list of str
    """
    learned = [each.text for each in role_sentences(roles) if each.learned]
    if learned:
        return learned
    ours = roles.heads.sel(source="posterior")
    if not bool((ours["ess_bulk"] >= EFFECTIVE_DRAWS_LIMIT).any()):
        return ["unknown: too few effective draws to tell heads from those of the prior"]
    return ["none: no head can be distinguished from those of the prior"]


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
    if problem.stage.masks is not None:
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
        weights = forward(stage, chunk, contexts).attention_weights  # (draw, L, H, B, T, T)
        if stage.masks is not None:
            total = weights.sum(axis=-1, keepdims=True)
            weights = np.divide(weights, total, out=np.zeros_like(weights), where=total > 0)
        rows = weights.reshape(*weights.shape[:3], 1, -1)
        return (rows @ pattern_weights.weights)[..., 0, :] - pattern_weights.uniform

    values = over_draws(stage, draws_of(idata, source), contexts, of_chunk, max_bytes=max_bytes)
    found = labelled(idata, source, values, "layer", "head", "role")
    return found.assign_coords(role=list(pattern_weights.names))


def _ranked(draws):
    """Sort over all heads and layers, largest first, (chain, draw, role, rank)."""
    flat = draws.stack(rank=("layer", "head")).transpose("chain", "draw", "role", "rank")
    return flat.drop_vars(["rank", "layer", "head"]).copy(data=-np.sort(-flat.values, axis=-1))


def _compare_with_prior(draws, prob):
    """Statistics by source, and the comparison of posterior and prior."""
    tables = {}
    for source, each in draws.items():
        table = summarise(each, prob=prob, exact_constants=True)
        more = probability(each > TIE, effective=table["ess_bulk"]).where(each.notnull().all(OVER))
        tables[source] = table.assign(
            above_uniform=more["probability"], above_uniform_mcse=more["mcse"]
        )
    table = side_by_side(tables)
    more = prob_greater(draws["posterior"], draws["prior"])
    table = table.assign(exceeds_prior=more["probability"], exceeds_prior_mcse=more["mcse"])
    return table.transpose("source", "role", ...)


def _top_head_probability(draws):
    """Probability that the excess of a head is the largest of all heads, and positive."""
    tables = {}
    for source, each in draws.items():
        largest = each.max(("layer", "head"))
        is_top = (each == largest) & (each > TIE)
        tables[source] = probability(is_top).rename(mcse="probability_mcse")
    return side_by_side(tables)


def _by_source(matchings, name):
    names = xr.DataArray(list(matchings), dims="source", name="source")
    return xr.concat([getattr(each, name) for each in matchings.values()], names)


def _sentence(one, head, role, learned):
    ours, theirs = one.sel(source="posterior"), one.sel(source="prior")
    mean, p = float(ours["mean"]), float(one["exceeds_prior"])
    prob = round(100 * one.attrs["prob"])
    text = (
        f"{head}, {role}: {abs(mean):.2f} {'more' if mean >= 0 else 'less'} than uniform attention "
        f"({prob} % interval {_interval(ours)}; prior {_interval(theirs)})"
    )
    if np.isnan(float(ours["sd"])):
        return text
    words = probability_words(p, one["exceeds_prior_mcse"])
    text += f". P(posterior > prior) {'' if words[0] in '<>' else '= '}{words}: "
    if not _has_enough_draws(ours):
        return text + "too few effective draws to tell from the prior"
    if learned:
        return text + f"learned from the text, {'more' if p > 0.5 else 'less'} than in the prior"
    return text + "not distinguishable from the prior"


def _has_enough_draws(summary):
    """Enough effective draws, which a role that is the same in every draw does not need."""
    return bool((summary["ess_bulk"] >= EFFECTIVE_DRAWS_LIMIT) | (summary["sd"] == 0))


def _interval(one):
    if np.isnan(float(one["sd"])):
        return "unknown"
    return f"{float(one['lower']):+.2f} to {float(one['upper']):+.2f}"


def _role_warnings(one, overlap):
    ours = one.sel(source="posterior")
    warnings = []
    if np.isnan(float(ours["sd"])):
        warnings.append("a single draw: no uncertainty")
    ess = np.fmin(float(ours["ess_bulk"]), float(ours["ess_tail"]))
    if ours["r_hat"] > R_HAT_LIMIT:
        warnings.append(f"R-hat {float(ours['r_hat']):.3f}, above {R_HAT_LIMIT}")
    if ess < ESS_LIMIT:
        warnings.append(f"ESS {ess:.0f}, below {ESS_LIMIT}")
    if overlap > MANY_AMBIGUOUS:
        warnings.append(f"the matching of heads is ambiguous in {overlap:.2f} of the draws")
    return f" ({'; '.join(warnings)})" if warnings else ""
