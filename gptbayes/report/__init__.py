"""One self-contained HTML page from one or several fits of the same text."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import arviz as az
import numpy as np

from gptbayes import __version__
from gptbayes.diagnostics.examination import SavedExamination, load_examination
from gptbayes.diagnostics.sampler import diagnose
from gptbayes.inference import open_run, problem_of
from gptbayes.report.attention import looks
from gptbayes.report.chains import disagree
from gptbayes.report.diagnostics import believed
from gptbayes.report.format import METHOD_NAMES, headline
from gptbayes.report.model import fitted
from gptbayes.report.page import page
from gptbayes.report.predictions import says
from gptbayes.report.sensitivity import sensitive
from gptbayes.report.texts import texts_page

__all__ = ["render", "texts_page", "write_report"]


def write_report(run: str | Path, beside: Sequence[str | Path] = ()) -> Path:
    """Write ``report.html`` into a run directory.

    Parameters
    ----------
    run : path
        The fit that the report is about.
    beside : sequence of path
        Other fits of the same text, whose predictions are shown beside it.

    Returns
    -------
    pathlib.Path
        The report.

    Raises
    ------
    ValueError
        If a folder is no finished run, or the runs are of different texts.
    """
    folders = [Path(folder) for folder in (run, *beside)]
    fits = {_label(folder): open_run(folder) for folder in folders}
    if len(fits) < len(folders):
        raise ValueError(f"each run can be given once: {', '.join(str(f) for f in folders)}")
    html = render(fits, load_examination(run))
    path = Path(run) / "report.html"
    partial = path.with_name(f".{path.name}-{os.getpid()}")
    partial.write_text(html, encoding="utf-8")
    os.replace(partial, path)
    return path


def render(fits: Mapping[str, az.InferenceData], further: SavedExamination | None = None) -> str:
    """The page as HTML.

    Parameters
    ----------
    fits : mapping of str to InferenceData
        The first is what the page is about.
    further : gptbayes.diagnostics.examination.Further, optional
        What `gptbayes symmetry` found of it.

    Returns
    -------
    str
    """
    label, idata = next(iter(fits.items()))
    problem, diagnosis = problem_of(idata), diagnose(idata)
    rng = np.random.default_rng([idata.attrs["seed"], 2])
    named = {_name(name, each): each for name, each in fits.items()}
    return page(
        title=f"The posterior of a small GPT: {problem.stage.title.lower()}",
        subtitle=f"Stage {problem.stage.number} on {problem.source}, "
        f"{METHOD_NAMES[idata.attrs['method']]}, {idata.attrs['target']}.",
        headline=headline(idata, diagnosis.findings),
        sections=[
            fitted(idata),
            believed(idata, diagnosis),
            says(idata, named, rng),
            looks(idata),
            disagree(idata, diagnosis, further),
            sensitive(idata),
        ],
        footer=f"Written by gptbayes {__version__} from {label}; text is written with seed "
        f"{idata.attrs['seed']}. Every figure here can be recomputed from posterior.nc beside it.",
    )


def _label(folder):
    return folder.resolve().name


def _name(label, idata):
    return f"{METHOD_NAMES[idata.attrs['method']]} ({label})"
