"""What does the model say next?"""

from __future__ import annotations

from collections.abc import Mapping

import arviz as az
import numpy as np

from gptbayes import plots
from gptbayes.diagnostics import Finding
from gptbayes.inference import problem_of
from gptbayes.predict import (
    Comparison,
    compare_held_out,
    next_character,
    unigram_log_density,
    write,
)
from gptbayes.report.blocks import Findings, Heading, Paragraph, Section, Table, picture
from gptbayes.report.texts import KINDS, LEGEND, text_block
from gptbayes.report.words import percent, plus_minus, spread

N_CONTEXTS = 3
TEXT_LENGTH = 120


def says(
    idata: az.InferenceData, fits: Mapping[str, az.InferenceData], rng: np.random.Generator
) -> Section:
    """What does the model say next?"""
    problem = problem_of(idata)
    comparison = compare_held_out(fits)
    blocks = [
        _next_character_picture(idata, problem),
        Paragraph(
            f"Dots are posterior means, bars {percent(0.9)} intervals over draws of the weights: "
            "how sure the posterior is of the probability, not how probable the character is."
        ),
        *_texts(idata, problem, rng),
        Heading("Held-out text"),
        *_held_out(idata, comparison),
    ]
    return Section("says", "What does the model say next?", blocks)


def _next_character_picture(idata, problem):
    at = spread(len(problem.held_out.x), N_CONTEXTS)
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
        summary = write(idata, prompt, TEXT_LENGTH, rng, kind=kind, group=group)
        blocks.append(text_block(title, summary))
    return blocks


def _held_out(idata, comparison: Comparison):
    problem, table = problem_of(idata), comparison.table
    unigram, unigram_se = unigram_log_density(idata)
    uniform = -np.log(problem.design.vocab_size)
    fig, (ax,) = plots.figure(height=0.5 * table.sizes["fit"] + 1.4)
    yardsticks = {"uniform guess": uniform, "character frequencies": unigram}
    plots.plot_held_out(table, yardsticks=yardsticks, ax=ax)
    rows = []
    for name in table["fit"].values:
        row = table.sel(fit=name)
        first = name == table["fit"].values[0]
        rows.append(
            [
                str(name),
                f"{float(row['per_character']):.3f} ± {float(row['per_character_se']):.3f}",
                f"{float(row['elpd']):.1f} ± {float(row['se']):.1f}",
                "" if np.isnan(row["mcse"]) else f"{float(row['mcse']):.1f}",
                "" if first else plus_minus(row["difference"], row["difference_se"]),
            ]
        )
    rows.append(["character frequencies", f"{unigram:.3f} ± {unigram_se:.3f}", "", "", ""])
    rows.append(["uniform guess", f"{uniform:.3f}", "", "", ""])
    caption = (
        f"Log predictive density of {table.attrs['n_sequence']} held-out sequences, "
        f"{table.attrs['n_character']} characters, in nats ± one standard error over sequences; "
        "differences are to the first row and paired. The unit is the sequence: the logarithm of "
        "the posterior mean of the probability of all its characters."
    )
    columns = ["fit", "per character", "sum", "Monte Carlo error", "difference"]
    found = [
        picture(fig, alt="held-out log density of the fits", caption="Two standard errors."),
        Table(caption, columns, rows),
    ]
    if table.attrs["n_sequence"] < 30:
        n = table.attrs["n_sequence"]
        found.append(
            Findings([Finding(False, f"only {n} held-out sequences: standard errors are rough")])
        )
    return found
