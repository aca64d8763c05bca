"""Subsections on held-out text: predictive density and calibration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gptbayes import plots
from gptbayes.findings import Finding, plus_minus, warnings_of
from gptbayes.predict import Reliability
from gptbayes.report.analysis import HeldOut
from gptbayes.report.blocks import Findings, Heading, Paragraph, Table, findings, picture
from gptbayes.report.format import p_value, percent


def density_blocks(found: HeldOut) -> list:
    """Held-out log predictive density of all fits, of their weighted draws and of baselines."""
    table, (first, *_) = found.table, found.table["fit"].values
    fig, (ax,) = plots.figure(height=0.32 * table.sizes["fit"] + 1.2)
    plots.plot_held_out(table, baselines={"uniform guess": found.uniform}, ax=ax)
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
    rows.append(["uniform guess", f"{found.uniform:.3f}", "", "", ""])
    caption = (
        f"Log predictive density of {table.attrs['n_sequence']} held-out sequences, "
        f"{table.attrs['n_character']} characters, in nats ± one standard error over sequences. "
        "Differences are to the first row and paired. The unit is the sequence: the density is "
        "the logarithm of the posterior mean of the joint probability of its characters. The "
        "Dirichlet-multinomial models count characters after contexts of 0, 1 and 2 characters "
        "and are exact; their concentrations have the largest evidence."
    )
    columns = ["fit", "per character", "sum", "Monte Carlo error", "difference"]
    return [
        Heading("Held-out predictive density"),
        picture(
            fig,
            name="held-out-density",
            alt="held-out log predictive density of the fits and of baselines",
            caption="Held-out log predictive density per character. Bars are two standard errors.",
        ),
        Table(caption, columns, rows, name="held-out-density"),
        *findings(*found.findings),
    ]


def calibration_blocks(
    found: Reliability, drawn: Sequence[str], shown: Sequence[Finding] = ()
) -> list:
    """Calibration of next-character probabilities on held-out text.

    Parameters
    ----------
    found : gptbayes.predict.Reliability
    drawn : sequence of str
        Predictors with curves of their own; the table has all of them.
    shown : sequence of Finding
        Warnings that stand above already.
    """
    names = [str(name) for name in found.curve["fit"].values]
    fig, axes = plots.figure(len(drawn), height=2.6, columns=min(len(drawn), 3))
    for ax, name in zip(axes, drawn, strict=True):
        plots.plot_reliability(found.curve.sel(fit=name), ax=ax)
        ax.set_title(plots.wrapped(name), fontsize="small")
    plots.share_legend(fig)
    fig2, (left, right) = plots.figure(2, height=3.8)
    plots.plot_pit(found.pit.sel(fit=list(drawn)), ax=left)
    plots.plot_by_position(found.by_position.sel(fit=list(drawn)), ax=right)
    plots.share_legend(fig2, columns=2)
    last = found.by_position.isel(fit=0, position=-1)
    gain = (
        f"From contexts of one character to contexts of {found.by_position.sizes['position']}, the "
        f"log score of {names[0]} changes by "
        f"{plus_minus(last['gain'], last['gain_se'], 2, sign='+')} nats, paired within sequences."
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
            name="reliability",
            alt="reliability curves of next-character probabilities, one panel for each fit",
            caption="Share of characters that occurred against their predicted probability. Bars "
            "show where the predicted probabilities lie; filled points are outside the band.",
        ),
        picture(
            fig2,
            name="pit",
            alt="PIT and log score by position",
            caption="Left: probability integral transform, the total probability of the characters "
            "that were predicted to be more probable than the one that occurred, uniform under "
            "calibration; a line below the band shows too many surprising characters. Right: mean "
            f"log score by length of the context. {gain}",
        ),
        _calibration_table(found, names),
    ]
    blocks += findings(*(each for each in found.power if each not in shown))
    blocks.append(Findings([each for name in drawn for each in _judged(found, name)]))
    return blocks


def _judged(found, name):
    """The judgement on a predictor, and its warnings; scores are in the table."""
    judgement, *others = found.findings[name]
    shown = [judgement, *warnings_of(others)]
    return [Finding(each.ok, f"{name}: {each.text}") for each in shown]


def _calibration_table(found, names):
    rows = []
    for name in names:
        one, score = found.calibration.sel(fit=name), found.scores.sel(fit=name)
        rows.append(
            [
                name,
                f"{float(one['ece']):.3f}",
                f"{float(one['ece_null_mean']):.3f}, {float(one['ece_null_q95']):.3f}",
                p_value(float(one["ece_p"])),
                f"{float(one['pit_mean']):.3f} ± {float(one['pit_mean_se']):.3f}",
                p_value(float(one["pit_p"])),
                plus_minus(score["log_score"], score["log_score_se"], 3),
                f"{float(score['brier']):.3f}",
                ""
                if name == names[0]
                else plus_minus(
                    score["brier_difference"], score["brier_difference_se"], 3, sign="+"
                ),
            ]
        )
    caption = (
        "Calibration of all predictors: the expected calibration error (ECE), its mean and 95 % "
        "quantile under calibration, and its p-value; the mean of the probability integral "
        "transform, 0.5 under calibration and larger for over-confident predictions, and the "
        "p-value of its distribution; the log score of single characters, nats; the Brier score, "
        "smaller is better, and its paired difference to the first row. Errors are standard errors "
        "over sequences."
    )
    columns = ["fit", "ECE", "if calibrated", "p", "mean PIT", "p", "log score"]
    columns += ["Brier score", "difference"]
    return Table(caption, columns, rows, name="calibration")
