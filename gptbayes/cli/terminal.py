"""What all commands share: the terminal, tables, findings and examples."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.console import Console, RenderHook
from rich.measure import Measurement
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from gptbayes.corpus import printable

if TYPE_CHECKING:
    import pandas

    from gptbayes.findings import Finding


def console(**options) -> Console:
    """A console on which text is text: no markup, no names of emoji, no control characters."""
    made = Console(highlight=False, markup=False, emoji=False, **options)
    made.push_render_hook(_Printable())
    return made


class _Printable(RenderHook):
    """Show control and format characters of whatever is printed, so that none reaches a terminal.

    Names of files, messages of programs and texts of users come from many places; what rich itself
    sends to move the cursor is marked as such and passes.
    """

    class Shown(NamedTuple):
        inner: Any

        def __rich_console__(self, console, options):
            for segment in console.render(self.inner, options):
                shown = segment.text if segment.control else printable(segment.text)
                yield Segment(shown, segment.style, segment.control)

        def __rich_measure__(self, console, options):
            return Measurement.get(console, options, self.inner)

    def process_renderables(self, renderables):
        return [self.Shown(each) for each in renderables]


OUT = console()
ERR = console(stderr=True)


@contextmanager
def status(text: str) -> Iterator[Callable[[str], None]]:
    """Show what is done at the moment, on standard error.

    Yields
    ------
    callable
        Shows another text.
    """
    with ERR.status(Text(text)) as shown:
        yield lambda text: shown.update(Text(text))


def check_targets(*paths: str | Path | None) -> None:
    """See that files can be written, before the work whose result they are to hold.

    Parameters
    ----------
    paths : path or None
        None is passed over. A file that is there stays as it is.

    Raises
    ------
    ValueError
        If one is a folder, or in a folder that is not there.
    OSError
        If one cannot be opened for writing.
    """
    for path in (Path(each) for each in paths if each is not None):
        if path.is_dir():
            raise ValueError(f"{path} is a folder, a file was wanted")
        if not path.parent.is_dir():
            raise ValueError(f"{path} cannot be written: there is no folder {path.parent}")
        there = path.exists()
        with open(path, "ab"):
            pass
        if not there:
            path.unlink()


def write_table(frame: pandas.DataFrame, path: Path) -> None:
    """Write a table as CSV; names of files that are not UTF-8 are written as ``\\xe9``."""
    frame.to_csv(path, encoding="utf-8", errors="backslashreplace")


def columns(*names: str) -> Table:
    """A plain table whose cells are never wrapped."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in names:
        table.add_column(name, no_wrap=True)
    return table


def print_table(title: str, table: Table) -> None:
    """Print a table in full under its title, wider than the terminal if it must be."""
    wide = Measurement.get(OUT, OUT.options.update(max_width=10_000), table).maximum
    OUT.print(Text(title, "bold"), soft_wrap=True)
    console(width=max(wide, OUT.width)).print(table)
    OUT.print()


def print_lines(title: str, lines: Iterable[str]) -> None:
    """Print indented lines under a title."""
    indented = (f"  {line}" for line in lines)
    OUT.print(Text(title, "bold"), *indented, "", sep="\n", soft_wrap=True)


def print_path(path: str | Path) -> None:
    """Print the name of a file that was written."""
    OUT.print(str(path), soft_wrap=True)


def print_findings(findings: Iterable[Finding]) -> None:
    """Print findings, one line each."""
    for finding in findings:
        mark = Text("ok      ", "green") if finding.ok else Text("warning ", "yellow")
        OUT.print(mark + finding.text, soft_wrap=True)


def print_warnings(findings: Iterable[Finding]) -> None:
    """Print the warnings among findings, or that there is none."""
    warnings = [finding for finding in findings if not finding.ok]
    print_findings(warnings)
    if not warnings:
        OUT.print(
            Text("ok      ", "green") + "every diagnostic of these draws is within its limits"
        )


def add_examples(parser: argparse.ArgumentParser, examples: str) -> None:
    """End the help of a parser with examples."""
    shown = textwrap.indent(textwrap.dedent(examples).strip(), "  ")
    parser.epilog = f"examples:\n{shown}"
    parser.formatter_class = argparse.RawDescriptionHelpFormatter


def describe(
    parser: argparse.ArgumentParser, act: Callable[[Any], None], *, description: str, examples: str
) -> Callable[..., argparse.Action]:
    """Say what a command does and which function does it.

    Parameters
    ----------
    parser : argparse.ArgumentParser
    act : callable
        Called with the parsed arguments.
    description, examples : str

    Returns
    -------
    callable
        ``parser.add_argument``.
    """
    parser.description = description
    add_examples(parser, examples)
    parser.set_defaults(act=act)
    return parser.add_argument
