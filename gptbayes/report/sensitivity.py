"""Section "Prior sensitivity"."""

from __future__ import annotations

import re

import numpy as np

from gptbayes.corpus import visible
from gptbayes.findings import ESS_LIMIT, Finding, pareto_k_limit, pareto_k_limit_words
from gptbayes.report.analysis import Analysis
from gptbayes.report.blocks import Paragraph, Section, Table, findings

CLEAR = 2.0
"""Monte Carlo standard errors beyond which a shift is starred."""
ENOUGH = ESS_LIMIT / 4
"""Smallest ESS of a shift with a star: from fewer draws its standard error is too small."""
_NOTES = {
    "prior": "This is the prior.",
    "optimize": "A mode is a single point: its sensitivity takes another fit.",
    "pathfinder": "Power-scaling reweights draws from the posterior. Pathfinder's draws are from "
    "an approximation: fit with NUTS for an answer.",
    "nuts": "Power-scaling needs at least four draws in each chain.",
    "hmc": "Power-scaling needs at least four draws in each chain.",
    "smc": "Power-scaling needs at least four draws in each replicate.",
}


def sensitivity_section(analysis: Analysis) -> Section:
    """How much conclusions depend on the prior."""
    table = analysis.sensitivity
    blocks = [Paragraph(_NOTES[analysis.method])] if table is None else _blocks(table)
    question = "Do the conclusions depend on the prior?"
    return Section("sensitivity", "Prior sensitivity", question, blocks)


def _blocks(table):
    rows = []
    for name in table["quantity"].values:
        row = table.sel(quantity=name)
        cells = []
        for component in ("prior", "likelihood"):
            one = row.sel(component=component)
            psense = float(one["psense"])
            cells += [_shift(one), "–" if np.isnan(psense) else f"{psense:.2f}"]
        spread = f"{float(row['mean']):.3f} ({float(row['sd']):.3f})"
        rows.append([_named(str(name)), spread, *cells])
    caption = (
        "Power-scaling: the shift of the posterior mean, in posterior standard deviations, if the "
        "power of the prior or of the likelihood doubled, to first order, ± Monte Carlo standard "
        f"error; a star marks shifts of more than {CLEAR:.0f} standard errors, where the ESS is at "
        f"least {ENOUGH:.0f}. psense is the "
        "diagnostic of Kallioinen et al. (2024), from importance weights; values above 0.05 "
        "usually count as sensitive, but with this many weights noise alone can exceed that, so "
        "the column with the error is the one to read."
    )
    columns = ["quantity", "mean (sd)", "prior", "psense", "likelihood", "psense"]
    worst, n_draws = float(table["pareto_k"].max()), int(table["n_draws"])
    warning = None
    if worst > pareto_k_limit(n_draws):
        warning = Finding(
            False,
            f"Pareto k {worst:.2f} of the power-scaling weights, above "
            f"{pareto_k_limit_words(n_draws)}: psense is not reliable",
        )
    return [
        Paragraph(
            "A quantity that moves with the likelihood but not with the prior was learned from "
            "the text. A quantity that moves with both is a compromise between them."
        ),
        Table(caption, columns, rows, "sensitivity"),
        *findings(warning),
    ]


def _named(quantity):
    """Make white space visible where characters are quoted, and only there."""
    return re.sub("“[^”]*”", lambda quoted: visible(quoted[0]), quantity)


def _shift(one):
    shift, error = round(float(one["shift"]), 1) + 0.0, float(one["mcse"])
    if not np.isfinite(shift):
        return ""
    clear = abs(shift) > CLEAR * error and float(one["ess"]) >= ENOUGH
    return f"{shift:+.1f} ± {error:.1f}{' *' if clear else ''}"
