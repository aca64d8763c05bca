"""Section "Diagnostics"."""

from __future__ import annotations

from typing import Any

import numpy as np

from gptbayes import plots
from gptbayes.report.analysis import CHAINS, Analysis
from gptbayes.report.blocks import Paragraph, Section, Table, findings, picture
from gptbayes.report.format import p_value
from gptbayes.validate.exact_marginals import ALPHA, failed_directions

_NO_LOO = (
    "Leave-one-out by importance sampling is not shown: it needs draws from the posterior of all "
    "sequences, and Pathfinder's draws are from an approximation. A small Pareto k of these "
    "weights would not reveal the difference."
)


def diagnostics_section(analysis: Analysis) -> Section:
    """How far the draws can be relied on."""
    blocks: list[Any] = [*findings(*analysis.findings)]
    if analysis.method in CHAINS:
        blocks += _chains(analysis)
    elif analysis.method == "pathfinder":
        blocks += _pathfinder(analysis)
    if analysis.exact_marginals is not None:
        blocks.append(_exact_marginals_table(analysis.exact_marginals))
    blocks += findings(analysis.loo_finding)
    if analysis.method == "pathfinder":
        blocks.append(Paragraph(_NO_LOO))
    question = "How far can these draws be relied on?"
    return Section("diagnostics", "Diagnostics", question, blocks)


def _chains(analysis):
    fig, (ax,) = plots.figure(height=2.6)
    plots.plot_trace(analysis.idata.sample_stats["lp"], label="log posterior, nats", ax=ax)
    health = analysis.sampler_health
    trees = "max_treedepth_hits" in health
    rows = [
        [
            str(k + 1),
            f"{int(health['divergences'][k])}",
            *([f"{int(health['max_treedepth_hits'][k])}"] if trees else []),
            "" if np.isnan(health["e_bfmi"][k]) else f"{float(health['e_bfmi'][k]):.2f}",
            f"{float(health['step_size'][k]):.3f}",
            f"{float(health['n_steps'][k]):.0f}",
            f"{float(health['acceptance_rate'][k]):.2f}",
        ]
        for k in range(health.sizes["chain"])
    ]
    depth = ["at max tree depth"] if trees else []
    columns = ["chain", "divergences", *depth, "E-BFMI", "step size"]
    return [
        picture(
            fig,
            name="trace",
            alt="trace of the log posterior of each chain",
            caption="Trace of the log posterior, up to a constant, after warm-up.",
        ),
        Table(
            "The sampler, chain by chain.",
            [*columns, "gradients per iteration", "acceptance"],
            rows,
            "sampler",
        ),
    ]


def _pathfinder(analysis):
    stats = analysis.idata.sample_stats
    ratios = (stats["lp"] - stats["lp_approx"]).values[0]
    path, lp = stats["path"].values[0], stats["lp"].values[0]
    rows = [
        [
            str(k + 1),
            f"{(path == k).sum()}",
            f"{lp[path == k].mean():.1f}",
            f"{lp[path == k].std():.1f}",
            f"{ratios[path == k].std():.1f}",
        ]
        for k in np.unique(path)
    ]
    caption = (
        "The paths: log posterior of their draws, and standard deviation of the log importance "
        "ratio, which is 0 for an exact approximation; nats."
    )
    columns = ["path", "draws", "mean log posterior", "sd", "sd of log ratio"]
    return [
        Table(caption, columns, rows, "paths"),
        Paragraph(
            "The draws below are raw and equally weighted. Each path ends in one of many modes. "
            "Draws from one path are independent, so R-hat is not defined for them."
        ),
    ]


def _exact_marginals_table(answers):
    rows, failed = [], failed_directions(answers)
    for name in answers["direction"].values:
        row = answers.sel(direction=name)
        p = float(row["p_value"])
        rows.append(
            [
                str(name),
                f"{int(row['n'])}",
                f"{float(row['exact_sd']):.3f}" if np.isfinite(row["exact_sd"]) else "",
                f"{float(row['sd']):.3f}",
                f"{float(row['t_max']):.1f}" if np.isfinite(p) else "",
                _tested(p, bool(failed.sel(direction=name))),
            ]
        )
    caption = (
        "Tests against exact marginals. Directions of weight space that no prediction depends on "
        "keep their prior exactly, as do the embeddings of characters that are never read; keys "
        "and queries have mean 0, and every orientation of a head is equally probable. A sum of n "
        "weights is divided by √n, so that its sd is that of one weight. Shown are the largest "
        "error of locations and spreads (normal scores) in Monte Carlo standard errors (batch "
        "means) and its p-value, adjusted for the scalars of the row (Bonferroni). A row fails if "
        f"its p-value times the number of rows is below {ALPHA}."
    )
    columns = ["direction", "scalars", "exact sd", "sd of draws", "largest t", "p"]
    return Table(caption, columns, rows, "exact-marginals")


def _tested(p, failed):
    if not np.isfinite(p):
        return "too few effective draws"
    return p_value(p) + (" (fails)" if failed else "")
