"""Attention: quantities of an `Analysis`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from gptbayes import attention
from gptbayes.findings import Finding, convergence_finding
from gptbayes.stats.thinning import evenly_spaced

if TYPE_CHECKING:
    from gptbayes.report.analysis.analysis import Analysis

N_MAPS = 2
"""Contexts whose attention weights are shown."""


def matching(analysis: Analysis) -> attention.Matching:
    """The heads of all draws, matched by what they do on held-out contexts."""
    analysis.on_step("matching heads")
    return attention.head_order(analysis.idata)


def prior_matching(analysis: Analysis) -> attention.Matching:
    """The heads of prior draws, matched to those of the posterior."""
    return attention.head_order(analysis.idata, group="prior", reference=analysis.matching)


def matching_findings(analysis: Analysis) -> list[Finding]:
    """How unambiguous the matching is, layer by layer."""
    return list(attention.matching_findings(analysis.matching))


def attention_weights(
    analysis, contexts: np.ndarray | None = None, *, group: str = "posterior"
) -> xr.Dataset:
    """Attention weights with their uncertainty, heads matched.

    Parameters
    ----------
    contexts : ndarray of int, (sequence, position), optional
        A few held-out contexts by default.
    group : {"posterior", "prior"}

    Returns
    -------
    Dataset (layer, head, sequence, query_position, key_position)
    """
    if contexts is None:
        contexts = analysis.map_contexts
    key = ("weights", group, np.asarray(contexts).tobytes())
    matching = analysis.matching if group == "posterior" else analysis.prior_matching
    return analysis.once(
        key,
        lambda: attention.summarise_attention(
            analysis.idata, contexts, matching=matching, prob=analysis.prob, group=group
        ),
    )


def attention_finding(analysis: Analysis, contexts: np.ndarray | None = None) -> Finding | None:
    """Convergence of the attention weights at some contexts; None for a single draw."""
    summary = analysis.attention_weights(contexts)
    if not summary["ess_bulk"].notnull().any():
        return None
    return _finding_of("attention weights, heads matched", summary)


def rollout(analysis: Analysis, contexts: np.ndarray | None = None) -> xr.Dataset | None:
    """Attention rollout through the layers; None for a single layer."""
    if analysis.idata.posterior.sizes["layer"] < 2:
        return None
    if contexts is None:
        contexts = analysis.map_contexts[:1]
    key = ("rollout", np.asarray(contexts).tobytes())
    return analysis.once(
        key, lambda: attention.attention_rollout(analysis.idata, contexts, prob=analysis.prob)
    )


def map_contexts(analysis: Analysis) -> np.ndarray:
    """The held-out contexts whose attention weights are shown, ``(sequence, position)``."""
    x = analysis.problem.held_out.x
    return x[evenly_spaced(len(x), N_MAPS)]


def roles(analysis: Analysis) -> attention.Roles | None:
    """What each head attends to, posterior beside prior; None for contexts of one position."""
    x = analysis.problem.held_out.x[: analysis.n_contexts]
    if x.shape[1] < 2:
        return None
    analysis.on_step("attention by detection pattern")
    return attention.head_roles(analysis.idata, analysis.matching, x, prob=analysis.prob)


def roles_finding(analysis: Analysis) -> Finding | None:
    """Convergence of attention by detection pattern; None for a single draw or no patterns."""
    if analysis.roles is None:
        return None
    summary = analysis.roles.ranks.sel(source="posterior")
    if not summary["ess_bulk"].notnull().any():
        return None
    return _finding_of("attention by detection pattern", summary)


def head_ablation(analysis: Analysis) -> attention.HeadAblation:
    """What predictions lose without a head."""
    analysis.on_step("ablating heads")
    x, y = (part[: analysis.n_contexts] for part in analysis.problem.held_out)
    return attention.ablate_heads(
        analysis.idata, x, y, matching=analysis.matching, prob=analysis.prob
    )


def position_ablation(analysis: Analysis) -> attention.PositionAblation | None:
    """What the next character loses without a position; None for contexts of one position."""
    x, y = (part[: analysis.n_contexts] for part in analysis.problem.held_out)
    if x.shape[1] < 2:
        return None
    analysis.on_step("ablating positions")
    n = attention.max_contexts(*x.shape)
    return attention.ablate_positions(analysis.idata, x[:n], y[:n], prob=analysis.prob)


def _finding_of(name, summary):
    """Convergence of what a summary is of, by the worst of it."""
    return convergence_finding(
        name,
        r_hat=float(summary["r_hat"].max()),
        ess_bulk=float(summary["ess_bulk"].min()),
        ess_tail=float(summary["ess_tail"].min()),
    )
