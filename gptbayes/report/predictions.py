"""Section "Posterior predictive text"."""

from __future__ import annotations

import numpy as np

from gptbayes import plots
from gptbayes.corpus import visible
from gptbayes.predict import influence_finding
from gptbayes.report.analysis import N_NEXT, Analysis
from gptbayes.report.blocks import Heading, Paragraph, Section, Table, findings, picture
from gptbayes.report.draws import next_character_draws, text_draws
from gptbayes.report.format import percent
from gptbayes.report.generated_text import KINDS, LEGEND, text_block
from gptbayes.report.held_out import calibration_blocks, density_blocks
from gptbayes.report.text_checks import text_check_blocks

N_CURVES = 6
"""Predictors whose reliability curves are drawn; the table has all of them."""
N_PASSAGES = 3
"""Number of training sequences of each sign that are shown for a prediction."""


def predictions_section(analysis: Analysis) -> Section:
    """Next characters, generated text, text checks, held-out density and calibration."""
    blocks = [
        next_character_draws(analysis, _next_character_picture(analysis.next_characters)),
        Paragraph(
            f"Dots are posterior means of probabilities, bars are {percent(analysis.prob)} "
            "intervals over draws of the weights: they show the uncertainty about a probability, "
            "not the probability itself."
        ),
        *_reason_blocks(analysis.because),
        Heading("Generated text"),
        Paragraph(f"{KINDS} {LEGEND}"),
        *text_draws(analysis),
        *(text_block(title, scored) for title, scored in analysis.texts),
        *text_check_blocks(analysis.text_checks),
        *density_blocks(analysis.held_out),
        *calibration_blocks(analysis.calibration, _drawn(analysis), analysis.held_out.findings),
    ]
    question = "What does the model predict, and how well?"
    return Section("predictions", "Posterior predictive text", question, blocks)


def _drawn(analysis):
    """Predictors with a reliability curve: no weighted draws, and one baseline."""
    plain = [each.name for each in analysis.predictors if each.weights is None]
    return [*plain[: N_CURVES - 1], *analysis.held_out.baselines[1:2]]


def _reason_blocks(found):
    """The training sequences on which the first of these probabilities rests."""
    if found is None:
        return []
    character, context = visible(found.attrs["character"]), visible(found.attrs["context"])
    size, error = found["influence"].values, found["mcse"].values
    order = np.argsort(size)
    chosen = dict.fromkeys([*order[::-1][:N_PASSAGES], *order[:N_PASSAGES][::-1]])
    rows = [
        [
            f"“{visible(str(found['text'].values[i]))}”",
            f"{size[i]:+.4f} ± {error[i]:.4f}",
            f"{float(found['left_out'][i]):+.4f}",
            f"{float(found['pareto_k'][i]):.2f}",
        ]
        for i in chosen
    ]
    caption = (
        f"Training sequences with the largest influence on the probability of “{character}” after "
        f"“{context}”, {found.attrs['mean']:.4f}: its derivative with respect to the weight of the "
        "sequence, with Monte Carlo error, and its change if the sequence is left out, by "
        "importance sampling."
    )
    columns = ["sequence", "influence", "left out", "Pareto k"]
    return [
        Heading("Training sequences behind a prediction"),
        Table(caption, columns, rows, "influence"),
        *findings(influence_finding(found)),
    ]


def _next_character_picture(next_characters):
    n = len(next_characters)
    fig, axes = plots.figure(n, height=3.8, columns=N_NEXT)
    for k, (ax, one) in enumerate(zip(axes, next_characters, strict=True), start=1):
        context, character, posterior, prior = one
        plots.plot_next_character(posterior, prior=prior, ax=ax)
        title = f"after “{plots.drawable(context)}”\nthe text has “{plots.drawable(character)}”"
        ax.set_title(title if len(title) < 60 else f"context {k}", fontsize="small")
    plots.share_legend(fig)
    places = "; ".join(
        f"after “{visible(context)}” the text has “{visible(character)}”"
        for context, character, *_ in next_characters
    )
    return picture(
        fig,
        name="next-character",
        alt=f"probabilities of the next character at {n} held-out contexts",
        caption="Next-character probabilities at held-out contexts, posterior and prior: "
        f"{places}. ␣ is a space, ↵ a new line.",
    )
