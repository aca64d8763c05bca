"""Open several runs, and make sure that they are of the same text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gptbayes.compare.refit_plan import FittedRun
from gptbayes.inference import open_run, problem_of


def open_same_text(folders: Sequence[str | Path], command: str = "compare") -> list[FittedRun]:
    """Open runs of the same text and windows.

    Parameters
    ----------
    folders : sequence of path
    command : str
        What needs them, for messages.

    Returns
    -------
    list of FittedRun
        Named after their folders.

    Raises
    ------
    ValueError
        If there is none, one is given twice or is not finished, or they are of different text.
    """
    paths = [Path(folder) for folder in folders]
    if not paths:
        raise ValueError(f"{command} needs at least one run, got none")
    if len({path.resolve() for path in paths}) < len(paths):
        raise ValueError(f"each run can be given once, got {', '.join(map(str, paths))}")
    names = [path.resolve().name for path in paths]
    if len(set(names)) < len(names):
        names = [str(path) for path in paths]
    fits = [FittedRun(name, path, open_run(path)) for name, path in zip(names, paths, strict=True)]
    first = problem_of(fits[0].idata)
    for run in fits[1:]:
        what = _different(first, problem_of(run.idata))
        if what:
            raise ValueError(
                f"runs must be fits of the same text and windows, {fits[0].name} and {run.name} "
                f"differ in their {what}"
            )
    return fits


def _different(one, other):
    if one.vocabulary != other.vocabulary:
        return "vocabulary"
    for name in ("training", "held_out"):
        pairs = zip(getattr(one, name), getattr(other, name), strict=True)
        if not all(np.array_equal(*pair) for pair in pairs):
            return f"{name.replace('_', '-')} windows"
    return None
