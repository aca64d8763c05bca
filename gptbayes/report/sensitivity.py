"""Does the prior matter?"""

from __future__ import annotations

import re

import arviz as az
import numpy as np

from gptbayes import plots
from gptbayes.diagnostics.sensitivity import prior_sensitivity
from gptbayes.findings import PARETO_K_LIMIT, Finding
from gptbayes.report.blocks import Findings, Paragraph, Section, Table

TITLE = "Does the prior matter?"
CLEAR = 2.0
"""Monte Carlo standard errors beyond which a shift is called one."""


def sensitive(idata: az.InferenceData) -> Section:
    """Does the prior matter?"""
    method = idata.attrs["method"]
    if method not in ("nuts", "smc"):
        note = {
            "prior": "This is the prior.",
            "optimize": "A mode is one point: its sensitivity takes another fit.",
            "pathfinder": "Power-scaling reweights draws of the posterior, which Pathfinder's are "
            "only approximately: fit with NUTS for an answer.",
        }[method]
        return Section("sensitive", TITLE, [Paragraph(note)])
    table = prior_sensitivity(idata)
    rows = []
    for name in table["quantity"].values:
        row = table.sel(quantity=name)
        cells = []
        for component in ("prior", "likelihood"):
            one = row.sel(component=component)
            cells += [_shift(one), f"{float(one['psense']):.2f}"]
        spread = f"{float(row['mean']):.3f} ({float(row['sd']):.3f})"
        rows.append([_named(str(name)), spread, *cells])
    caption = (
        "Power-scaling: by how many posterior standard deviations the posterior mean would move if "
        "the power of prior or likelihood doubled, to first order, ± Monte Carlo standard error; a "
        f"star marks what is beyond {CLEAR:.0f} of these errors. psens is the published diagnostic "
        "of the same, from importance weights; above 0.05 it usually counts as sensitive, but with "
        "this many weights its noise alone can be above that: read the column with the error."
    )
    columns = ["quantity", "mean (sd)", "prior", "psense", "likelihood", "psense"]
    blocks = [
        Paragraph(
            "What moves with the likelihood and not with the prior has been learned from the "
            "text. What moves with the prior as much as with the likelihood is a compromise of "
            "the two."
        ),
        Table(caption, columns, rows),
    ]
    worst = float(table["pareto_k"].max())
    if worst > PARETO_K_LIMIT:
        words = f"Pareto k {worst:.2f} of the importance weights: psens is not reliable here"
        blocks.append(Findings([Finding(False, words)]))
    return Section("sensitive", TITLE, blocks)


def _named(quantity):
    """White space is to be seen where characters are quoted, and only there."""
    return re.sub("“[^”]*”", lambda quoted: plots.visible(quoted[0]), quantity)


def _shift(one):
    shift, error = round(float(one["shift"]), 1) + 0.0, float(one["mcse"])
    if not np.isfinite(shift):
        return ""
    return f"{shift:+.1f} ± {error:.1f}{' *' if abs(shift) > CLEAR * error else ''}"
