"""Write the report of a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from gptbayes import __version__
from gptbayes.files import replacing
from gptbayes.report.abstract import abstract
from gptbayes.report.analysis import METHOD_NAMES, Analysis
from gptbayes.report.attention import attention_section
from gptbayes.report.blocks import Report
from gptbayes.report.chains import chains_section
from gptbayes.report.diagnostics import diagnostics_section
from gptbayes.report.evidence import evidence_section
from gptbayes.report.export import export_files
from gptbayes.report.markdown import markdown
from gptbayes.report.methods import methods_section
from gptbayes.report.model import model_section
from gptbayes.report.page import page
from gptbayes.report.pdf import browser_of, pdf
from gptbayes.report.predictions import predictions_section
from gptbayes.report.sensitivity import sensitivity_section

SECTIONS = (
    model_section,
    diagnostics_section,
    predictions_section,
    attention_section,
    chains_section,
    sensitivity_section,
    methods_section,
)
FORMATS = ("html", "md", "pdf")
"""Formats of a report; pdf is printed by Chromium."""


def write_report(
    run: str | Path,
    beside: Sequence[str | Path] = (),
    *,
    formats: Sequence[str] = ("html",),
    export: str | Path | None = None,
    on_step: Callable[[str], None] | None = None,
) -> Path:
    """Write ``report.html`` into a run directory.

    Parameters
    ----------
    run : path
        The fit that the report is about.
    beside : sequence of path
        Other fits of the same text, compared with it on held-out text.
    formats : sequence of {"html", "md", "pdf"}
        One file each: ``report.html``, ``report.md`` with its pictures in ``report-files``, and
        ``report.pdf``, printed by Chromium.
    export : path, optional
        A folder to which every table is written as CSV and every figure as SVG and PNG.
    on_step : callable, optional
        Called with a few words before each step that takes time.

    Returns
    -------
    pathlib.Path
        The report, in the first of the formats.

    Raises
    ------
    ValueError
        If a folder is not a finished run, a run is given twice, the texts differ, or a format is
        unknown.
    RuntimeError
        If a PDF is wanted and there is no Chromium, before anything is computed.
    """
    folders = [Path(folder) for folder in (run, *beside)]
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise ValueError(f"each run can be given once: {', '.join(str(f) for f in folders)}")
    _check_formats(formats)
    options: dict[str, Any] = {"on_step": on_step} if on_step else {}
    analysis, *others = (Analysis.of_run(folder, **options) for folder in folders)
    report = compose(replace(analysis, beside=_named_apart(analysis, others, folders)))
    analysis.on_step("writing the report")
    if export is not None:
        export_files(report, export)
    paths = {each: Path(run) / f"report.{each}" for each in dict.fromkeys(formats)}
    if "html" in paths:
        _write(paths["html"], page(report).encode())
    if "pdf" in paths:
        _write(paths["pdf"], pdf(page(report)))
    if "md" in paths:
        folder = paths["md"].with_name("report-files")
        export_files(report, folder, figures=("png",), tables=False)
        _write(paths["md"], markdown(report, folder.name).encode())
    return paths[formats[0]]


def render(analysis: Analysis) -> str:
    """Format an analysis as one self-contained HTML page.

    Parameters
    ----------
    analysis : Analysis

    Returns
    -------
    str
        HTML.
    """
    return page(compose(analysis))


def compose(analysis: Analysis) -> Report:
    """Put the report of an analysis together, in no format yet.

    Parameters
    ----------
    analysis : Analysis

    Returns
    -------
    Report
    """
    stage, attrs = analysis.problem.stage, analysis.idata.attrs
    return Report(
        title=f"The posterior of a small GPT: stage {stage.number}, {stage.title.lower()}",
        subtitle=f"Text: {analysis.problem.source}. Method: {METHOD_NAMES[analysis.method]}. "
        f"Target: {attrs['target']}.",
        abstract=abstract(analysis),
        sections=[section(analysis) for section in _sections(analysis)],
        footer=f"Written by gptbayes {__version__} from {analysis.name}. Text is generated with "
        f"seed {attrs['seed']}. Every figure can be recomputed from posterior.nc beside this page.",
    )


def _check_formats(formats):
    if not formats:
        raise ValueError(f"formats must be one or several of {', '.join(FORMATS)}, got none")
    for each in formats:
        if each not in FORMATS:
            raise ValueError(f"formats must be of {', '.join(FORMATS)}, got {each}")
    if "pdf" in formats:
        browser_of()


def _write(path, content):
    with replacing(path) as partial:
        partial.write_bytes(content)


def _sections(analysis):
    """Those of every fit; the evidence, of fits that estimate it, after their diagnostics."""
    if analysis.tempering is None:
        return SECTIONS
    return (*SECTIONS[:2], evidence_section, *SECTIONS[2:])


def _named_apart(analysis, others, folders):
    """The other fits, with the path in the name of those that are called as one before them."""
    named, taken = [], {analysis.name}
    for other, folder in zip(others, folders[1:], strict=True):
        name = other.name
        if name in taken:
            name = f"{METHOD_NAMES[other.method]} ({folder})"
        taken.add(name)
        named.append(replace(other, name=name))
    return tuple(named)
