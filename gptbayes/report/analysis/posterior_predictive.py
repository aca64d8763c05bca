"""Posterior predictive text: quantities of an `Analysis`."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import xarray as xr

from gptbayes import predict
from gptbayes.predict.text_statistics import GAP, join_windows
from gptbayes.report.analysis.methods import CHAINS
from gptbayes.stats import mcmc
from gptbayes.stats.thinning import evenly_spaced

if TYPE_CHECKING:
    from gptbayes.report.analysis.analysis import Analysis

N_NEXT = 3
"""Contexts after which the next character is shown."""
TEXT_LENGTH = 120
"""Characters of each generated text."""


class ScoredText(NamedTuple):
    """A text with the posterior's numbers for each of its characters.

    Attributes
    ----------
    title : str
    scored : Dataset (new_position)
        As of `gptbayes.predict.score_text`.
    """

    title: str
    scored: xr.Dataset


def held_out_log_prob(analysis: Analysis) -> xr.DataArray:
    """Log probability of every held-out character, ``(chain, draw, sequence, position)``."""
    return predict.held_out_log_prob(analysis.idata)


def next_characters(analysis: Analysis) -> list[tuple[str, str, xr.Dataset, xr.Dataset]]:
    """Context, the character that follows it, and next-character probabilities.

    The probabilities are those of the posterior and of the prior, at a few held-out contexts.
    """
    held_out, decode = analysis.problem.held_out, analysis.problem.vocabulary.decode
    found = []
    for i in evenly_spaced(len(held_out.x), N_NEXT):
        context, character = decode(held_out.x[i]), decode(held_out.y[i, -1:])
        posterior, prior = (
            predict.next_character(analysis.idata, context, prob=analysis.prob, group=group)
            for group in ("posterior", "prior")
        )
        found.append((context, character, posterior, prior))
    return found


def because(analysis: Analysis) -> xr.Dataset | None:
    """Influences of the training sequences on the first of `next_characters`.

    None for a single draw, and for methods whose draws have no log likelihood or are not from the
    posterior.
    """
    if analysis.method not in CHAINS or analysis.n_draw < mcmc.MIN_DRAWS:
        return None
    held_out, decode = analysis.problem.held_out, analysis.problem.vocabulary.decode
    i = evenly_spaced(len(held_out.x), N_NEXT)[0]
    return predict.because(analysis.idata, decode(held_out.x[i]), decode(held_out.y[i, -1:]))


def texts(analysis: Analysis) -> list[ScoredText]:
    """Generated texts and the held-out text, with the numbers of each character."""
    rng, decode = analysis.rng(1), analysis.problem.vocabulary.decode
    prompt = decode(analysis.problem.held_out.x[0])
    wanted = [
        ("Coherent, one posterior draw", "coherent", "posterior"),
        ("Coherent, another posterior draw", "coherent", "posterior"),
        ("Marginal, the posterior mean", "marginal", "posterior"),
        ("For comparison, one draw from the prior", "coherent", "prior"),
    ]
    if analysis.method == "optimize":
        wanted = [("The mode", "coherent", "posterior"), wanted[-1]]
    analysis.on_step("generating text")
    found = [
        ScoredText(
            title,
            predict.generate(analysis.idata, prompt, TEXT_LENGTH, rng, kind=kind, group=group),
        )
        for title, kind, group in wanted
    ]
    held_out = join_windows(analysis.problem.held_out, decode).split(GAP)[0]
    rest = held_out[len(prompt) :][:TEXT_LENGTH]
    if rest:
        title = "For comparison, the held-out text, scored by the posterior"
        found.append(ScoredText(title, predict.score_text(analysis.idata, prompt, rest)))
    return found


def text_checks(analysis: Analysis) -> predict.TextChecks:
    """Posterior predictive checks of the held-out text."""
    analysis.on_step("checking generated text")
    return predict.check_text(analysis.idata, analysis.rng(2), prob=analysis.prob)
