"""Progress bars for long work, on a terminal and in a notebook."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.progress import TimeRemainingColumn as TimeRemaining
from rich.text import Text

from gptbayes import fit
from gptbayes.corpus import printable

MOST_BARS = 32
"""More do not fit on a screen, and drawing a thousand takes more time than there is."""


@contextmanager
def progress_bars() -> Iterator[Callable[[Sequence[fit.Progress]], None]]:
    """Progress bars, one for each chain, path, start or replicate, or one for all of many.

    On a terminal they are drawn on standard error. In a notebook they stand below the cell while
    it runs and are removed at its end, so that they are not part of a saved or rendered notebook.

    Yields
    ------
    callable
        For ``on_progress`` of `gptbayes.fit.nuts`, `gptbayes.fit.pathfinder` and
        `gptbayes.fit.optimize`.

    Examples
    --------
    >>> from gptbayes import fit
    >>> with progress_bars() as on_progress:
    ...     on_progress([fit.Progress("chain 1", done=250, total=500, begun=True)])
    """
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
    console = Console(stderr=True, highlight=False)
    times = (TimeElapsedColumn(), _TimeRemaining(), TextColumn("{task.fields[note]}", markup=False))
    bars = Progress(*columns, *times, console=console)
    with ExitStack() as shown:
        tasks: dict[str, TaskID] = {}

        def on_progress(units):
            if not tasks:  # bars without tasks are an empty line
                shown.enter_context(_displayed(bars) if in_notebook() else bars)
            for unit in units if len(units) <= MOST_BARS else [_together(units)]:
                if unit.label not in tasks:
                    name = printable(unit.label)
                    tasks[unit.label] = bars.add_task(name, start=False, note="")
                if unit.begun:
                    bars.start_task(tasks[unit.label])
                now = {"completed": unit.done, "total": unit.total, "note": unit.note}
                bars.update(tasks[unit.label], refresh=in_notebook(), **now)

        yield on_progress


def in_notebook() -> bool:
    """Whether this process is a Jupyter kernel.

    Returns
    -------
    bool
    """
    ipython = sys.modules.get("IPython")
    return ipython is not None and hasattr(ipython.get_ipython(), "kernel")


def _together(units):
    """One bar for many."""
    done, total = sum(unit.done for unit in units), sum(unit.total for unit in units)
    words = units[0].label.partition(" ")[0]
    label = f"{len(units):,} {words}{'' if words.endswith('s') else 's'}"
    return fit.Progress(label, done, total, any(unit.begun for unit in units))


class _TimeRemaining(TimeRemaining):
    """Nothing where a note says it: iterations take the same time each, levels do not."""

    def render(self, task):
        return Text("") if task.fields["note"] else super().render(task)


@contextmanager
def _displayed(bars):
    """Bars as the output of a notebook's cell, which needs IPython only and no widgets."""
    from IPython.display import display

    shown = display(bars, display_id=True)
    bars.refresh = lambda: shown.update(bars)
    try:
        yield
    finally:
        shown.update({"text/plain": ""}, raw=True)
