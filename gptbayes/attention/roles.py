"""What a head does: attention to kinds of places, beyond what a uniform look gives them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import arviz as az
import numpy as np
import xarray as xr

from gptbayes.attention.contexts import checked_contexts, draws_of, labelled, problem_with_attention
from gptbayes.attention.detection_patterns import DETECTION_PATTERNS
from gptbayes.attention.matching import MANY_AMBIGUOUS, Matching, head_order, matched
from gptbayes.findings import convergence_warnings
from gptbayes.model.forward import MAX_BYTES, forward, over_draws
from gptbayes.stats.probability import prob_greater, probability
from gptbayes.stats.summary import OVER, side_by_side, summarise

N_CONTEXTS = 50
TOLD_APART = 0.95
"""From this probability of more than the prior on, or below one minus it, a role was learned."""
TIE = 1e-12
"""Excesses nearer to 0 are 0: a uniform look, up to rounding."""


class Roles(NamedTuple):
    """What heads look at, beyond a uniform look, posterior and prior.

    Attention to a class of places, minus what uniform attention gives them through the same
    dropout mask if there is one, averaged over contexts and over those positions that see both
    places of the class and others. Between -1 and 1, 0 for a head that looks everywhere alike.

    Attributes
    ----------
    heads : Dataset (source, role, layer, head)
        Of matched heads: the statistics of `gptbayes.stats.summary.summarise`; ``probability`` that
        the head is *the* head of the role, that of all heads and layers which looks there most, and
        more than uniform, with ``probability_mcse``; ``above_uniform``, the probability that it
        looks there more than uniform, with ``above_uniform_mcse``. Without the dim source,
        ``exceeds_prior`` and ``exceeds_prior_mcse``: the probability that a posterior draw looks
        there more than a prior draw. The prior's heads were matched to the posterior's.
    ranks : Dataset (source, role, rank)
        The same statistics of the largest, second largest, ... over all heads and layers of each
        draw, which no matching touches, and ``exceeds_prior`` of each.
    no_head : Dataset (source, role)
        ``probability`` with ``mcse`` that no head looks at the class more than uniform.
    ambiguous : DataArray (source, layer)
        Share of draws whose matching is ambiguous, see `Matching`; ``ambiguous_mcse`` its error.
    ambiguous_mcse : DataArray (source, layer)
    left_out : tuple of str
        Classes that never occur in these contexts, or leave no position a choice.
    """

    heads: xr.Dataset
    ranks: xr.Dataset
    no_head: xr.Dataset
    ambiguous: xr.DataArray
    ambiguous_mcse: xr.DataArray
    left_out: tuple[str, ...]


def head_roles(
    idata: az.InferenceData,
    matching: Matching | None = None,
    contexts: np.ndarray | None = None,
    *,
    classes: Mapping[str, Callable[[str], np.ndarray]] = DETECTION_PATTERNS,
    prob: float = 0.9,
    max_bytes: int = MAX_BYTES,
) -> Roles:
    """Roles of heads as posteriors, beside the prior's.

    Parameters
    ----------
    idata : InferenceData
    matching : Matching, optional
        Of the posterior; by default `gptbayes.attention.head_order`. The prior's draws are
        assigned to its reference, because matching makes patterns out of noise as well.
    contexts : ndarray of int, (sequence, position), optional
        0-based tokens; by default the first 50 held-out windows.
    classes : mapping of str to callable
        Each a function of a text as in `gptbayes.attention.detection_patterns`.
    prob : float
        Mass of the intervals.
    max_bytes : int
        Rough bound on the activations held at any time.

    Returns
    -------
    Roles

    Raises
    ------
    ValueError
        For a stage without attention, or if no class occurs in the contexts.
    """
    problem = problem_with_attention(idata)
    contexts = problem.held_out.x[:N_CONTEXTS] if contexts is None else contexts
    contexts = checked_contexts(problem, contexts)
    matching = head_order(idata) if matching is None else matching
    matchings = {
        "posterior": matching,
        "prior": head_order(idata, group="prior", reference=matching),
    }
    settings: dict[str, Any] = {"classes": classes, "max_bytes": max_bytes}
    draws = {
        source: role_draws(idata, contexts, matching=order, group=source, **settings)
        for source, order in matchings.items()
    }
    occur = draws["posterior"]["role"].values
    ranked = {source: _ranked(each) for source, each in draws.items()}
    heads = _beside_prior(draws, prob).merge(_the_head(draws))
    return Roles(
        heads=heads.transpose("source", "role", "layer", "head"),
        ranks=_beside_prior(ranked, prob),
        no_head=side_by_side(
            {source: probability(each.max("rank") <= TIE) for source, each in ranked.items()}
        ),
        ambiguous=_by_source(matchings, "ambiguous"),
        ambiguous_mcse=_by_source(matchings, "ambiguous_mcse"),
        left_out=tuple(name for name in classes if name not in occur),
    )


def role_draws(
    idata: az.InferenceData,
    contexts: np.ndarray,
    *,
    matching: Matching | None = None,
    group: str = "posterior",
    classes: Mapping[str, Callable[[str], np.ndarray]] = DETECTION_PATTERNS,
    max_bytes: int = MAX_BYTES,
) -> xr.DataArray:
    """What `head_roles` summarises, for every draw: to see chain by chain who does what.

    Parameters
    ----------
    idata : InferenceData
    contexts : ndarray of int, (sequence, position)
        0-based tokens.
    matching : Matching, optional
        Of the same group; by default `gptbayes.attention.head_order` of it.
    group : {"posterior", "prior"}
    classes : mapping of str to callable
    max_bytes : int
        Rough bound on the activations held at any time.

    Returns
    -------
    DataArray (chain, draw, layer, head, role)

    Raises
    ------
    ValueError
        As `head_roles`.
    """
    problem = problem_with_attention(idata)
    looks = _looks(problem, checked_contexts(problem, contexts), classes)
    matching = head_order(idata, group=group) if matching is None else matching
    return matched(_excess(idata, group, np.asarray(contexts), looks, max_bytes), matching)


class RoleSentence(NamedTuple):
    """What there is to say about one head and one class of places.

    Attributes
    ----------
    role : str
    layer, head : int
        Counted from 0.
    learned : bool
        Whether posterior and prior draws can be told apart by it.
    text : str
        In words, with the interval, the prior's, and whatever makes the figure shaky.
    """

    role: str
    layer: int
    head: int
    learned: bool
    text: str


def role_sentences(roles: Roles) -> Iterator[RoleSentence]:
    """A sentence for every role and head: what it does, and whether the text taught it.

    Parameters
    ----------
    roles : Roles

    Yields
    ------
    RoleSentence
        The heads of a role in order; a role that a head cannot have, because of its dropout mask,
        is left out.
    """
    heads = roles.heads
    for role in heads["role"].values:
        for layer in range(heads.sizes["layer"]):
            for head in range(heads.sizes["head"]):
                one = heads.sel(role=role).isel(layer=layer, head=head)
                if np.isnan(one["mean"]).any():
                    continue
                p = float(one["exceeds_prior"])
                spread = float(one["sd"].sel(source="posterior"))
                learned = not (np.isnan(spread) or 1 - TOLD_APART < p < TOLD_APART)
                overlap = float(roles.ambiguous.sel(source="posterior")[layer])
                text = _sentence(one, f"layer {layer + 1}, head {head + 1}", str(role), learned)
                yield RoleSentence(str(role), layer, head, learned, text + _shaky(one, overlap))


def attention_back(weights: xr.DataArray, distance: int) -> xr.DataArray:
    """Attention to the character some positions back, beyond what uniform attention gives it.

    Parameters
    ----------
    weights : DataArray (..., query_position, key_position)
    distance : int
        0 for the position itself, 1 for the previous character.

    Returns
    -------
    DataArray (...)
        Mean over the query positions, from the second on, that have such a character; 0 for a
        head that looks everywhere alike.

    Raises
    ------
    ValueError
        If no position has one.
    """
    n = weights.sizes["query_position"]
    first = max(1, distance)
    if not 0 <= distance < n or first >= n:
        raise ValueError(f"distance must be between 0 and {n - 1}, got {distance}")
    query = xr.DataArray(np.arange(first, n), dims="query_position")
    attended = weights.isel(query_position=query, key_position=query - distance)
    return (attended - 1 / (query + 1)).mean("query_position")


class _Looks(NamedTuple):
    """What to multiply attention with."""

    names: tuple[str, ...]
    share: np.ndarray  # (layer, head, sequence * query * key, role); 1, 1 if there is no mask
    uniform: np.ndarray  # (layer, head, role), what uniform attention has; nan without a choice


def _looks(problem, contexts, classes):
    """The mean over contexts and positions of attention to a class, as a linear map."""
    texts = [problem.vocabulary.decode(context) for context in contexts]
    places = np.array([[of(text) for text in texts] for of in classes.values()])  # (role, B, T, T)
    n = contexts.shape[1]
    masks = np.ones((1, 1, n, n))
    if problem.stage.masks is not None:
        masks = np.asarray(problem.stage.masks.attention)[:, :, :n, :n]
    masks = (masks * np.tri(n))[:, :, None, None]  # (L, H, 1, 1, T, T)
    total = np.maximum(masks.sum(axis=-1), 1e-300)
    uniform = (places * masks).sum(axis=-1) / total  # (L, H, role, B, T)
    choice = (uniform > TIE) & (uniform < 1 - TIE)
    n_choices = choice.sum(axis=(-1, -2))  # (L, H, role)
    with np.errstate(invalid="ignore", divide="ignore"):
        expected = (uniform * choice).sum(axis=(-1, -2)) / n_choices
        share = places * choice[..., None] / n_choices[..., None, None, None]
    kept = n_choices.any(axis=(0, 1))
    names = tuple(name for name, keep in zip(classes, kept, strict=True) if keep)
    if not names:
        raise ValueError(f"no class of places occurs in the contexts, got: {', '.join(classes)}")
    share = np.moveaxis(share[:, :, kept], 2, -1)  # (L, H, B, T, T, role)
    share = share.reshape(*share.shape[:2], contexts.size * n, len(names))
    return _Looks(names, np.nan_to_num(share), expected[:, :, kept])


def _excess(idata, source, contexts, looks, max_bytes):
    """Attention beyond uniform (chain, draw, layer, head, role), heads in their own order."""
    stage = problem_with_attention(idata).stage

    def of_chunk(chunk):
        weights = forward(stage, chunk, contexts).attention_weights  # (draw, L, H, B, T, T)
        if stage.masks is not None:
            total = weights.sum(axis=-1, keepdims=True)
            weights = np.divide(weights, total, out=np.zeros_like(weights), where=total > 0)
        rows = weights.reshape(*weights.shape[:3], 1, -1)
        return (rows @ looks.share)[..., 0, :] - looks.uniform

    values = over_draws(stage, draws_of(idata, source), contexts, of_chunk, max_bytes=max_bytes)
    found = labelled(idata, source, values, "layer", "head", "role")
    return found.assign_coords(role=list(looks.names))


def _ranked(draws):
    """Largest first over all heads and layers, (chain, draw, role, rank)."""
    flat = draws.stack(rank=("layer", "head")).transpose("chain", "draw", "role", "rank")
    return flat.drop_vars(["rank", "layer", "head"]).copy(data=-np.sort(-flat.values, axis=-1))


def _beside_prior(draws, prob):
    """Statistics by source, and how the posterior compares with the prior."""
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


def _the_head(draws):
    """Probability that a head is the one that looks there most, and more than uniform."""
    tables = {}
    for source, each in draws.items():
        most = each.max(("layer", "head"))
        is_it = (each == most) & (each > TIE)
        tables[source] = probability(is_it).rename(mcse="probability_mcse")
    return side_by_side(tables)


def _by_source(matchings, name):
    names = xr.DataArray(list(matchings), dims="source", name="source")
    return xr.concat([getattr(each, name) for each in matchings.values()], names)


def _sentence(one, who, role, learned):
    ours, theirs = one.sel(source="posterior"), one.sel(source="prior")
    mean, p = float(ours["mean"]), float(one["exceeds_prior"])
    prob = round(100 * one.attrs["prob"])
    text = (
        f"{who}, {role}: {abs(mean):.2f} {'more' if mean >= 0 else 'less'} than a uniform look "
        f"({prob} % interval {_interval(ours)}; prior {_interval(theirs)})"
    )
    if np.isnan(float(ours["sd"])):
        return text
    error = float(one["exceeds_prior_mcse"])
    text += f". A posterior draw has more of it than a prior draw with probability {p:.2f} "
    text += f"± {error:.2f}: "
    if learned:
        return text + f"the text taught it to look there {'more' if p > 0.5 else 'less'}"
    return text + "the prior has as much, and it is not to be read as learned"


def _interval(one):
    if np.isnan(float(one["sd"])):
        return "none"
    return f"{float(one['lower']):+.2f} to {float(one['upper']):+.2f}"


def _shaky(one, overlap):
    ours = one.sel(source="posterior")
    r_hat, ess = float(ours["r_hat"]), float(ours["ess_bulk"])
    doubts = []
    if np.isnan(float(ours["sd"])):
        doubts.append("a single draw: nothing says how far it can be trusted")
    doubts += convergence_warnings(r_hat, ess)
    if overlap > MANY_AMBIGUOUS:
        doubts.append(f"heads of this layer have no names, {overlap:.2f} of the draws ambiguous")
    return f" ({'; '.join(doubts)})" if doubts else ""
