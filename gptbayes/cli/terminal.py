"""What all commands share: the terminal, progress, and how a parser is made."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.measure import Measurement
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.progress import TimeRemainingColumn as TimeRemaining
from rich.table import Table
from rich.text import Text

from gptbayes import fit

OUT = Console(highlight=False)
ERR = Console(stderr=True, highlight=False)


@contextmanager
def progress_bars() -> Iterator[Callable[[list[fit.Progress]], None]]:
    """Progress bars on the terminal, one for each chain or path.

    Yields
    ------
    callable
        For ``on_progress`` of `gptbayes.fit.nuts`, `pathfinder` and `optimize`.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    times = (TimeElapsedColumn(), _TimeRemaining(), TextColumn("{task.fields[note]}"))
    with Progress(*columns, *times, console=ERR) as bars:
        tasks = {}

        def on_progress(units):
            for unit in units:
                if unit.label not in tasks:
                    tasks[unit.label] = bars.add_task(unit.label, start=False, note="")
                if unit.begun:
                    bars.start_task(tasks[unit.label])
                now = {"completed": unit.done, "total": unit.total, "note": unit.note}
                bars.update(tasks[unit.label], **now)

        yield on_progress


class _TimeRemaining(TimeRemaining):
    """Nothing where a note says it: iterations take the same time each, levels do not."""

    def render(self, task):
        return Text("") if task.fields["note"] else super().render(task)


def columns(*names: str) -> Table:
    """A plain table whose cells are never broken."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in names:
        table.add_column(name, no_wrap=True)
    return table


def print_table(title: str, table: Table) -> None:
    """A table in full under its title, wider than the terminal if it must be."""
    wide = Measurement.get(OUT, OUT.options.update(max_width=10_000), table).maximum
    OUT.print(Text(title, "bold"), soft_wrap=True)
    Console(highlight=False, width=max(wide, OUT.width)).print(table)
    OUT.print()


def print_findings(findings) -> None:
    """Warnings and good news, one line each."""
    for finding in findings:
        mark = Text("fine    ", "green") if finding.ok else Text("warning ", "yellow")
        OUT.print(mark + finding.text, soft_wrap=True)


def command(make, act, *args, epilog, **kwargs):
    """A parser whose help ends with examples, and the function that it leads to."""
    examples = textwrap.indent(textwrap.dedent(epilog).strip(), "  ")
    parser = make(
        *args,
        epilog=f"examples:\n{examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        **kwargs,
    )
    parser.set_defaults(act=act)
    return parser
