"""Can these draws be believed?"""

from __future__ import annotations

import arviz as az
import numpy as np

from gptbayes import plots
from gptbayes.diagnostics.sampler import Diagnosis
from gptbayes.findings import Finding
from gptbayes.predict import loo, n_bad_pareto_k
from gptbayes.report.blocks import Findings, Paragraph, Section, Table, picture
from gptbayes.validate.exact_marginals import ALPHA

_NO_LOO = (
    "Leave-one-out by importance sampling is not given: its weights lead from the posterior of all "
    "sequences to that of all but one, and Pathfinder's draws are of neither. A small Pareto k of "
    "these weights would not show it."
)


def believed(idata: az.InferenceData, diagnosis: Diagnosis) -> Section:
    """Can these draws be believed?"""
    blocks = [Findings(diagnosis.findings)]
    method = idata.attrs["method"]
    if method in ("nuts", "smc"):
        blocks += _nuts_checks(idata, diagnosis.health)
    elif method == "pathfinder":
        blocks += _pathfinder_checks(idata)
    if method != "optimize":
        blocks.append(_known_answers_table(diagnosis.exact_marginals))
    if method in ("nuts", "smc"):
        blocks += _loo_paragraph(idata)
    elif method == "pathfinder":
        blocks.append(Paragraph(_NO_LOO))
    return Section("believed", "Can these draws be believed?", blocks)


def _nuts_checks(idata, health):
    fig, (ax,) = plots.figure(height=2.6)
    plots.plot_trace(idata.sample_stats["lp"], label="log posterior, nats", ax=ax)
    rows = [
        [
            str(k + 1),
            f"{int(health['divergences'][k])}",
            f"{int(health['max_treedepth_hits'][k])}",
            f"{float(health['e_bfmi'][k]):.2f}",
            f"{float(health['step_size'][k]):.3f}",
            f"{float(health['n_steps'][k]):.0f}",
            f"{float(health['acceptance_rate'][k]):.2f}",
        ]
        for k in range(health.sizes["chain"])
    ]
    columns = ["chain", "divergences", "at max tree depth", "E-BFMI", "step size"]
    return [
        picture(
            fig,
            alt="log posterior over the draws of each chain",
            caption="The log posterior, up to a constant, over the draws after warm-up.",
        ),
        Table("The sampler, chain by chain.", [*columns, "gradients per draw", "acceptance"], rows),
    ]


def _pathfinder_checks(idata):
    stats = idata.sample_stats
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
        "Paths: the log posterior of their draws, and the spread of the log importance ratio, "
        "which would be 0 were the approximation exact; nats."
    )
    columns = ["path", "draws", "mean log posterior", "sd", "sd of log ratio"]
    return [
        Table(caption, columns, rows),
        Paragraph(
            "The draws below are raw and equally weighted. Each path ends in one mode of many; "
            "draws of one path are independent, and R-hat means nothing for them."
        ),
    ]


def _known_answers_table(answers):
    rows = []
    for name in answers["direction"].values:
        row = answers.sel(direction=name)
        p = float(row["p_value"])
        rows.append(
            [
                str(name),
                f"{int(row['n'])}",
                f"{float(row['exact_sd']):.3f}" if np.isfinite(row["exact_sd"]) else "",
                f"{float(row['sd']):.3f}",
                f"{float(row['t_max']):.1f}",
                _p_value(p) + (" (fails)" if p < ALPHA else ""),
            ]
        )
    caption = (
        "Tests with known answers: directions of weight space that no prediction depends on keep "
        "their prior exactly, and so do embeddings of characters that are never read; keys and "
        "queries have mean 0, and every orientation of a head is equally likely. Largest error of "
        "means and variances in Monte Carlo standard errors by batch means, and its p-value over "
        "all of them (Bonferroni)."
    )
    columns = ["direction", "how many", "exact sd", "sd of draws", "largest t", "p"]
    return Table(caption, columns, rows)


def _p_value(p):
    return "< 0.0001" if p < 1e-4 else f"{p:.2g}"


def _loo_paragraph(idata):
    result = loo(idata)
    bad, n = n_bad_pareto_k(result), len(result.pareto_k)
    text_ = (
        f"Leave-one-sequence-out by PSIS: elpd {result.elpd_loo:.1f}, standard error "
        f"{result.se:.1f} nats, effective parameters {result.p_loo:.1f}."
    )
    if not bad:
        return [Paragraph(f"{text_} Pareto k is at most 0.7 for all {n} sequences.")]
    warning = (
        f"{text_} Pareto k is above 0.7 for {bad} of {n} sequences, the figure is not reliable: "
        "use the held-out density below, or gptbayes compare, which refits those sequences"
    )
    return [Findings([Finding(False, warning)])]
