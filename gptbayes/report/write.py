"""Write the report of a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from gptbayes import __version__
from gptbayes.files import replacing
from gptbayes.report.analysis import METHOD_NAMES, Analysis
from gptbayes.report.attention import attention_section
from gptbayes.report.chains import chains_section
from gptbayes.report.diagnostics import diagnostics_section
from gptbayes.report.evidence import evidence_section
from gptbayes.report.model import model_section
from gptbayes.report.page import page
from gptbayes.report.predictions import predictions_section
from gptbayes.report.sensitivity import sensitivity_section

SECTIONS = (
    model_section,
    diagnostics_section,
    predictions_section,
    attention_section,
    chains_section,
    sensitivity_section,
)


def write_report(
    run: str | Path,
    beside: Sequence[str | Path] = (),
    *,
    on_step: Callable[[str], None] | None = None,
) -> Path:
    """Write ``report.html`` into a run directory.

    Parameters
    ----------
    run : path
        The fit that the report is about.
    beside : sequence of path
        Other fits of the same text, compared with it on held-out text.
    on_step : callable, optional
        Called with a few words before each step that takes time.

    Returns
    -------
    pathlib.Path
        The report.

    Raises
    ------
    ValueError
        If a folder is not a finished run, a run is given twice, or the texts differ.
    """
    folders = [Path(folder) for folder in (run, *beside)]
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise ValueError(f"each run can be given once: {', '.join(str(f) for f in folders)}")
    options: dict[str, Any] = {"on_step": on_step} if on_step else {}
    analysis, *others = (Analysis.of_run(folder, **options) for folder in folders)
    html = render(replace(analysis, beside=_named_apart(analysis, others, folders)))
    path = Path(run) / "report.html"
    with replacing(path) as partial:
        partial.write_text(html, encoding="utf-8")
    return path


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
    stage, attrs = analysis.problem.stage, analysis.idata.attrs
    return page(
        title=f"The posterior of a small GPT: {stage.title.lower()}",
        subtitle=f"Stage {stage.number} on {analysis.problem.source}, "
        f"{METHOD_NAMES[analysis.method]}, {attrs['target']}.",
        sections=[section(analysis) for section in _sections(analysis)],
        footer=f"Written by gptbayes {__version__} from {analysis.name}. Text is generated with "
        f"seed {attrs['seed']}. Every figure can be recomputed from posterior.nc beside this page.",
    )


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
