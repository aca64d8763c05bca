"""Several runs of one text on one page: the ladder at a glance."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from gptbayes import __version__, plots, predict
from gptbayes.compare import RunComparison
from gptbayes.compare.same_text import open_same_text
from gptbayes.files import replacing
from gptbayes.findings import Finding, few_sequences_finding, plus_minus
from gptbayes.report.analysis import CHAINS, METHOD_NAMES, Analysis
from gptbayes.report.blocks import Link, Paragraph, Report, Section, Table, findings, picture
from gptbayes.report.format import p_value
from gptbayes.report.page import page


def write_comparison(
    folders: Sequence[str | Path],
    path: str | Path,
    *,
    compared: RunComparison | None = None,
    on_step: Callable[[str], None] | None = None,
) -> Path:
    """Write a page that compares several runs of one text.

    Parameters
    ----------
    folders : sequence of path
        Run directories, one row each, in this order.
    path : path
        The page. Runs that have a ``report.html`` are linked from it.
    compared : RunComparison, optional
        Leave-one-out and WBIC of these runs.
    on_step : callable, optional
        Called with a few words before each step that takes time.

    Returns
    -------
    pathlib.Path

    Raises
    ------
    ValueError
        If a folder is not a finished run, a run is given twice, or the texts differ.
    """
    runs = open_same_text(folders)
    tell = on_step or (lambda step: None)
    analyses = []
    for run in runs:
        name = run.name
        told = _prefixed(tell, name)
        analyses.append(Analysis(run.idata, name, on_step=told))
    path = Path(path)
    links = {
        run.name: Path(os.path.relpath(Path(run.folder) / "report.html", path.parent)).as_posix()
        for run in runs
        if (Path(run.folder) / "report.html").exists()
    }
    html = page(comparison_report(analyses, links, compared))
    with replacing(path) as partial:
        partial.write_text(html, encoding="utf-8")
    return path


def _prefixed(tell, name):
    return lambda step: tell(f"{name}: {step}")


def comparison_report(
    analyses: Sequence[Analysis],
    links: dict[str, str],
    compared: RunComparison | None = None,
) -> Report:
    """Put the comparison of several analyses together.

    Parameters
    ----------
    analyses : sequence of Analysis
        Of fits of one text, with names that differ.
    links : dict of str to str
        Where the report of a fit is, by name.
    compared : RunComparison, optional

    Returns
    -------
    Report
    """
    first = analyses[0]
    held_out = predict.compare_held_out(
        {each.name: each.idata for each in analyses},
        log_density={each.name: each.held_out_log_prob.sum("position") for each in analyses},
        forecasts={name: each.log_density for name, each in first.baselines.items()},
    ).table
    calibration = predict.held_out_reliability(
        {each.name: each.idata for each in analyses}, first.rng(3), prob=first.prob
    )
    rows = [_row(each, links, held_out, calibration) for each in analyses]
    rows += [_baseline(name, held_out) for name in first.baselines]
    n = held_out.attrs["n_character"]
    caption = (
        f"One row for each run. Density: log predictive density of {n} held-out characters in "
        f"{held_out.attrs['n_sequence']} sequences, nats per character ± standard error over "
        f"sequences, and the paired difference to {first.name}. Evidence: of the training text by "
        "sequential Monte Carlo, nats. ECE: expected calibration error, its mean under calibration "
        "and p-value. Seconds of computing are those of all chains, paths or starts."
    )
    columns = ["run", "stage", "method", "verdict", "warnings", "density", "difference"]
    columns += ["evidence", "ECE", "seconds"]
    uniform = -float(np.log(first.problem.design.vocab_size))
    fig, (ax,) = plots.figure(height=0.34 * held_out.sizes["fit"] + 1.2)
    plots.plot_held_out(held_out, baselines={"uniform guess": uniform}, ax=ax)
    blocks = [
        Table(caption, columns, rows, "runs"),
        picture(
            fig,
            name="held-out-density",
            alt="held-out log predictive density of the runs and of baselines",
            caption="Held-out log predictive density per character. Bars are two standard errors.",
        ),
        *findings(few_sequences_finding(held_out.attrs["n_sequence"])),
    ]
    sections = [Section("runs", "Runs", "Which run predicts best, and can it be believed?", blocks)]
    reliability = [
        block
        for each in analyses
        for block in (Paragraph(f"{each.name}:"), *findings(*_warnings(each)))
        if _warnings(each)
    ]
    if reliability:
        question = "How far can the draws of each run be relied on?"
        sections.append(Section("diagnostics", "Diagnostics", question, reliability))
    if compared is not None:
        question = "How do the runs compare by leave-one-out and by information criteria?"
        said = [Finding(each.ok, each.text) for each in compared.findings]
        blocks = [_loo_table(compared), *findings(*said)]
        sections.append(Section("loo", "Leave-one-sequence-out", question, blocks))
    return Report(
        title=f"{len(analyses)} runs on {first.problem.source}",
        subtitle="Predictive density, evidence, calibration, cost and verdict of each run.",
        sections=sections,
        footer=f"Written by gptbayes {__version__}.",
    )


def _warnings(analysis):
    return [each for each in analysis.findings if not each.ok]


def _row(analysis, links, held_out, calibration):
    one, own = held_out.sel(fit=analysis.name), calibration.calibration.sel(fit=analysis.name)
    link = links.get(analysis.name)
    seconds = json.loads(analysis.idata.attrs["seconds"])
    known = seconds and np.isfinite(seconds).all()
    return [
        Link(analysis.name, link) if link else analysis.name,
        analysis.problem.stage.number,
        METHOD_NAMES[analysis.method],
        _verdict(analysis),
        str(len(_warnings(analysis))),
        plus_minus(one["per_character"], one["per_character_se"], 3),
        _difference(one, held_out),
        _evidence(analysis),
        f"{float(own['ece']):.3f} ({float(own['ece_null_mean']):.3f}), "
        f"p {p_value(float(own['ece_p']))}",
        f"{sum(seconds):.0f}" if known else "",
    ]


def _baseline(name, held_out):
    one = held_out.sel(fit=name)
    density = plus_minus(one["per_character"], one["per_character_se"], 3)
    return [name, "", "exact", "", "", density, _difference(one, held_out), "", "", ""]


def _difference(one, held_out):
    if str(one["fit"].values) == str(held_out["fit"].values[0]):
        return ""
    n = held_out.attrs["n_character"]
    return plus_minus(one["difference"] / n, one["difference_se"] / n, 3, sign="+")


def _verdict(analysis):
    if analysis.method not in CHAINS:
        return "no chains"
    try:
        return analysis.verdict.name
    except ValueError:
        return "cannot be compared"


def _evidence(analysis):
    tempering = analysis.tempering
    if tempering is None or tempering.evidence is None:
        return ""
    return plus_minus(tempering.evidence.log_evidence, tempering.evidence.se)


def _loo_table(compared):
    table = compared.table
    wanted = {
        "elpd": ("elpd_loo", "se", 1),
        "difference": ("difference", "difference_se", 1),
        "effective parameters": ("p_loo", None, 1),
        "Pareto k > 0.7": ("n_bad_k", None, 0),
        "refitted": ("n_refitted", None, 0),
        "stacking weight": ("weight", None, 2),
        "WBIC": ("wbic", "wbic_mcse", 1),
    }
    shown = {name: spec for name, spec in wanted.items() if spec[0] in table}
    rows = []
    for name in table["fit"].values:
        one = table.sel(fit=name)
        cells = []
        for value, error, digits in shown.values():
            if not np.isfinite(one[value]):
                cells.append("")
                continue
            cells.append(plus_minus(one[value], one[error] if error else np.nan, digits))
        if any(cells):
            rows.append([str(name), *cells])
    caption = (
        "Leave-one-sequence-out of the training text, nats ± standard error over sequences, and "
        "stacking weights, which are those of a mixture that predicts and no model probabilities."
    )
    return Table(caption, ["run", *shown], rows, "loo")
