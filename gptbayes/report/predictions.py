"""What does the model say next?"""

from __future__ import annotations

from collections.abc import Mapping

import arviz as az
import numpy as np

from gptbayes import plots
from gptbayes.inference import problem_of
from gptbayes.predict import generate, next_character, score_text
from gptbayes.predict.text_statistics import BETWEEN, whole_text
from gptbayes.report.blocks import Heading, Paragraph, Section, picture
from gptbayes.report.checks import check_blocks
from gptbayes.report.format import evenly_spaced, percent
from gptbayes.report.held_out import density_blocks, reliability_blocks
from gptbayes.report.texts import KINDS, LEGEND, text_block

N_CONTEXTS = 3
TEXT_LENGTH = 120


def says(
    idata: az.InferenceData, fits: Mapping[str, az.InferenceData], rng: np.random.Generator
) -> Section:
    """What does the model say next?"""
    problem = problem_of(idata)
    blocks = [
        _next_character_picture(idata, problem),
        Paragraph(
            f"Dots are posterior means, bars {percent(0.9)} intervals over draws of the weights: "
            "how sure the posterior is of the probability, not how probable the character is."
        ),
        *_texts(idata, problem, rng),
        *check_blocks(idata, rng),
        *density_blocks(fits),
        *reliability_blocks(fits, rng),
    ]
    return Section("says", "What does the model say next?", blocks)


def _next_character_picture(idata, problem):
    at = evenly_spaced(len(problem.held_out.x), N_CONTEXTS)
    contexts = [problem.vocabulary.decode(problem.held_out.x[i]) for i in at]
    truth = [problem.vocabulary.decode(problem.held_out.y[i, -1:]) for i in at]
    fig, axes = plots.figure(len(contexts), width=9, height=3.6, columns=N_CONTEXTS)
    for k, (ax, context, character) in enumerate(zip(axes, contexts, truth, strict=True)):
        prior = next_character(idata, context, group="prior")
        plots.plot_next_character(next_character(idata, context), prior=prior, ax=ax)
        title = f"after “{plots.drawable(context)}”\nthe text has “{plots.drawable(character)}”"
        ax.set_title(title if len(title) < 60 else f"place {k + 1}", fontsize="medium")
    places = "; ".join(
        f"after “{plots.visible(context)}” the text has “{plots.visible(character)}”"
        for context, character in zip(contexts, truth, strict=True)
    )
    return picture(
        fig,
        alt="probabilities of the next character at three held-out contexts",
        caption=f"What comes next at held-out places of the text, posterior and prior: {places}. "
        "␣ is a space, ↵ a new line.",
    )


def _texts(idata, problem, rng):
    prompt = problem.vocabulary.decode(problem.held_out.x[0])
    blocks = [
        Heading("Written text"),
        Paragraph(f"{KINDS} {LEGEND}"),
    ]
    wanted = (
        ("Coherent, one posterior draw", "coherent", "posterior"),
        ("Coherent, another posterior draw", "coherent", "posterior"),
        ("Marginal, the posterior mean", "marginal", "posterior"),
        ("For comparison, one draw from the prior", "coherent", "prior"),
    )
    if idata.attrs["method"] == "optimize":
        wanted = (("The mode", "coherent", "posterior"), wanted[-1])
    for title, kind, group in wanted:
        summary = generate(idata, prompt, TEXT_LENGTH, rng, kind=kind, group=group)
        blocks.append(text_block(title, summary))
    held_out = whole_text(problem.held_out, problem.vocabulary.decode).split(BETWEEN)[0]
    real = held_out[len(prompt) :][:TEXT_LENGTH]
    if real:
        title = "For comparison, how the held-out text goes on, in the eyes of the posterior"
        blocks.append(text_block(title, score_text(idata, prompt, real)))
    return blocks
