"""Roles of heads in sentences: what was learned, and how reliably that is known."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from gptbayes.attention.matching import MANY_AMBIGUOUS
from gptbayes.attention.roles import Roles
from gptbayes.findings import EFFECTIVE_DRAWS_LIMIT, ESS_LIMIT, R_HAT_LIMIT, probability_words

LEARNED_PROB = 0.95
"""A role counts as learned if P(posterior > prior) is above this or below one minus this."""


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
