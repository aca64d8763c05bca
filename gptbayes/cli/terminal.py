"""What all commands share: the terminal, tables, findings and examples."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from gptbayes.findings import Finding

OUT = Console(highlight=False)
ERR = Console(stderr=True, highlight=False)


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
    Console(highlight=False, width=max(wide, OUT.width)).print(table)
    OUT.print()


def print_lines(title: str, lines: Iterable[str]) -> None:
    """Print indented lines under a title."""
    indented = (f"  {line}" for line in lines)
    OUT.print(Text(title, "bold"), *indented, "", sep="\n", markup=False, soft_wrap=True)


def print_path(path: str | Path) -> None:
    """Print the name of a file that was written."""
    OUT.print(str(path), markup=False, soft_wrap=True)


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
