"""Held-out text: how well it is predicted, by whom, and whether the probabilities can be taken at
their word."""

from __future__ import annotations

from collections.abc import Mapping

import arviz as az
import numpy as np

from gptbayes import plots
from gptbayes.diagnostics.modes import stack_chains
from gptbayes.findings import Finding, few_sequences_finding
from gptbayes.inference import problem_of
from gptbayes.predict import (
    chain_weights,
    compare_held_out,
    held_out_reliability,
    psis_weights,
    unigram_log_density,
)
from gptbayes.predict.draw_weights import weights_warning
from gptbayes.report.blocks import Findings, Heading, Paragraph, Table, picture
from gptbayes.report.format import percent, plus_minus


def density_blocks(fits: Mapping[str, az.InferenceData]) -> list:
    """Held-out log predictive density of all fits, and of their draws weighted otherwise."""
    idata = next(iter(fits.values()))
    problem = problem_of(idata)
    fits, weights, doubts = _with_weighted(fits)
    table = compare_held_out(fits, weights).table
    unigram, unigram_se = unigram_log_density(idata)
    uniform = -np.log(problem.design.vocab_size)
    fig, (ax,) = plots.figure(height=0.36 * table.sizes["fit"] + 1.3)
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
    few = few_sequences_finding(table.attrs["n_sequence"])
    if few:
        doubts.append(few)
    return [
        Heading("Held-out text"),
        picture(fig, alt="held-out log density of the fits", caption="Two standard errors."),
        Table(caption, columns, rows),
        *([Findings(doubts)] if doubts else []),
    ]


def reliability_blocks(fits: Mapping[str, az.InferenceData], rng: np.random.Generator) -> list:
    """Whether probabilities of the next character can be taken at their word."""
    found = held_out_reliability(fits, rng)
    names = list(fits)
    fig, axes = plots.figure(len(names), width=3.4 * min(len(names), 3), height=3.3, columns=3)
    for ax, name in zip(axes, names, strict=True):
        plots.plot_reliability(found.curve.sel(fit=name), ax=ax)
        ax.set_title(name, fontsize="medium")
    fig2, (left, right) = plots.figure(2, width=9.4, height=3.3)
    plots.plot_pit(found.pit, ax=left)
    plots.plot_by_position(found.by_position, ax=right)
    last = found.by_position.isel(fit=0, position=-1)
    gain = (
        f"{names[0]} gains {float(last['gain']):+.2f} ± {float(last['gain_se']):.2f} nats from "
        f"having {found.by_position.sizes['position']} characters to read in place of one, a "
        "difference paired within sequences."
    )
    sentences = [[name, "; ".join(said)] for name, said in found.sentences.items()]
    return [
        Heading("Can the probabilities be taken at their word?"),
        Paragraph(
            "Of the characters that a calibrated model gives probability 0.3, three in ten come. "
            "The band is where the curve of a calibrated model of the same sharpness stays, "
            f"everywhere at once, with probability {percent(found.curve.attrs['prob'])}: outcomes "
            "were simulated from its own predictions. The calibration error of even a perfect "
            "model is not 0, so it is given beside its noise."
        ),
        picture(
            fig,
            alt="reliability of next-character probabilities, one panel for each fit",
            caption="Share of characters that came, against the probability they were given; bars "
            "below are where the probabilities lie, filled points are outside the band.",
        ),
        picture(
            fig2,
            alt="PIT and log score by position",
            caption="Left: the probability of all characters thought likelier than the one that "
            "came, uniform if calibrated; a line below the band says that there are too many "
            f"surprises. Right: mean log score by how much can be read. {gain}",
        ),
        Table("What that says of each fit.", ["fit", ""], sentences, words=True),
    ]


def _with_weighted(fits):
    """Fits and, beside them, their draws weighted otherwise; and what is doubtful about that."""
    named, weights, doubts = {}, {}, []
    for name, idata in fits.items():
        named[name] = idata
        other, weight = _weighted(name, idata)
        if weight is None:
            continue
        named[other], weights[other] = idata, weight
        doubt = weights_warning(weight)
        if doubt:
            doubts.append(Finding(False, f"{other}: {doubt}"))
    return named, weights, doubts


def _weighted(name, idata):
    if idata.attrs["method"] == "pathfinder":
        try:
            return f"{name}, importance weighted", psis_weights(idata)
        except ValueError:  # ratios that are no numbers: the diagnosis says so
            return name, None
    if idata.attrs["method"] not in ("nuts", "smc") or idata.posterior.sizes["chain"] < 2:
        return name, None
    if idata.posterior.sizes["draw"] < 20:  # too few for importance sampling within a chain
        return name, None
    weight = stack_chains(idata).chains["weight"]
    return f"{name}, chains stacked", chain_weights(idata, weight.values)
