"""Subsections on held-out text: predictive density and calibration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gptbayes import plots
from gptbayes.findings import Finding, plus_minus
from gptbayes.predict import Reliability
from gptbayes.report.analysis import HeldOut
from gptbayes.report.blocks import Findings, Heading, Paragraph, Table, findings, picture
from gptbayes.report.format import percent


def density_blocks(found: HeldOut) -> list:
    """Held-out log predictive density of all fits, and of their weighted draws."""
    table, (first, *_) = found.table, found.table["fit"].values
    baselines = {"uniform guess": found.uniform, "character frequencies": found.unigram}
    fig, (ax,) = plots.figure(height=0.36 * table.sizes["fit"] + 1.3)
    plots.plot_held_out(table, baselines=baselines, ax=ax)
    rows = []
    for name in table["fit"].values:
        row = table.sel(fit=name)
        difference = plus_minus(row["difference"], row["difference_se"], sign="+")
        rows.append(
            [
                str(name),
                plus_minus(row["per_character"], row["per_character_se"], 3),
                plus_minus(row["elpd"], row["se"]),
                "" if np.isnan(row["mcse"]) else f"{float(row['mcse']):.1f}",
                "" if name == first else difference,
            ]
        )
    unigram = plus_minus(found.unigram, found.unigram_se, 3)
    rows.append(["character frequencies", unigram, "", "", ""])
    rows.append(["uniform guess", f"{found.uniform:.3f}", "", "", ""])
    caption = (
        f"Log predictive density of {table.attrs['n_sequence']} held-out sequences, "
        f"{table.attrs['n_character']} characters, in nats ± one standard error over sequences. "
        "Differences are to the first row and paired. The unit is the sequence: the density is "
        "the logarithm of the posterior mean of the joint probability of its characters."
    )
    columns = ["fit", "per character", "sum", "Monte Carlo error", "difference"]
    return [
        Heading("Held-out predictive density"),
        picture(
            fig,
            alt="held-out log predictive density of the fits",
            caption="Held-out log predictive density per character. Bars are two standard errors.",
        ),
        Table(caption, columns, rows),
        *findings(*found.findings),
    ]


def calibration_blocks(found: Reliability, shown: Sequence[Finding] = ()) -> list:
    """Calibration of next-character probabilities on held-out text.

    Parameters
    ----------
    found : gptbayes.predict.Reliability
    shown : sequence of Finding
        Warnings that stand above already.
    """
    names = [str(name) for name in found.curve["fit"].values]
    fig, axes = plots.figure(len(names), width=3.4 * min(len(names), 3), height=3.3, columns=3)
    for ax, name in zip(axes, names, strict=True):
        plots.plot_reliability(found.curve.sel(fit=name), ax=ax)
        ax.set_title(plots.literal(name), fontsize="medium")
    fig2, (left, right) = plots.figure(2, width=9.4, height=3.3)
    plots.plot_pit(found.pit, ax=left)
    plots.plot_by_position(found.by_position, ax=right)
    last = found.by_position.isel(fit=0, position=-1)
    gain = (
        f"{names[0]} gains {plus_minus(last['gain'], last['gain_se'], 2, sign='+')} nats from "
        f"contexts of {found.by_position.sizes['position']} characters instead of one, paired "
        "within sequences."
    )
    blocks: list[Any] = [
        Heading("Calibration"),
        Paragraph(
            "A model is calibrated if, of the characters to which it gives probability 0.3, three "
            "in ten occur. The band contains the whole curve of a calibrated model of the same "
            f"sharpness with probability {percent(found.curve.attrs['prob'])}; it is simulated "
            "from the model's own predictions. The expected calibration error of a calibrated "
            "model is not 0, so it is shown beside its distribution under calibration."
        ),
        picture(
            fig,
            alt="reliability curves of next-character probabilities, one panel for each fit",
            caption="Share of characters that occurred against their predicted probability. Bars "
            "show where the predicted probabilities lie; filled points are outside the band.",
        ),
        picture(
            fig2,
            alt="PIT and log score by position",
            caption="Left: probability integral transform, the total probability of the characters "
            "that were predicted to be more probable than the one that occurred, uniform under "
            "calibration; a line below the band shows too many surprising characters. Right: mean "
            f"log score by length of the context. {gain}",
        ),
    ]
    blocks += findings(*(each for each in found.power if each not in shown))
    for name in names:
        blocks += [Paragraph(f"{name}:"), Findings(found.findings[name])]
    return blocks
