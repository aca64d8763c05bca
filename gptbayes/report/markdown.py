"""A report as Markdown, with its pictures in a folder beside it."""

from __future__ import annotations

import re

from gptbayes.corpus import printable
from gptbayes.report.blocks import (
    Bibliography,
    Draws,
    Findings,
    Heading,
    Paragraph,
    Picture,
    Points,
    Report,
    Section,
    Table,
    Text,
)
from gptbayes.report.export import file_stem
from gptbayes.report.format import sentence


def markdown(report: Report, folder: str) -> str:
    """Format a report as Markdown.

    Parameters
    ----------
    report : Report
    folder : str
        Where the pictures are, as `gptbayes.report.export.export_files` names them.

    Returns
    -------
    str
    """
    parts = [f"# {_plain(report.title)}", _plain(report.subtitle)]
    if report.abstract is not None:
        parts.append("## Abstract")
        parts += [
            f"**{_plain(each.label)}.** {_plain(each.text)}" for each in report.abstract.paragraphs
        ]
        parts.append(_table(report.abstract.table))
    for number, section in enumerate(report.sections, start=1):
        parts += [f"## {number}. {_plain(section.title)}", f"*{_plain(section.question)}*"]
        parts += [each for block in section.blocks for each in _block(block, section, folder)]
    return "\n\n".join([*parts, _plain(report.footer)]) + "\n"


def _block(block, section: Section, folder: str) -> list[str]:
    if isinstance(block, Draws):
        return [] if block.picture is None else _block(block.picture, section, folder)
    if isinstance(block, Picture):
        path = f"{folder}/{file_stem(section.id, block.name)}.png"
        return [f"![{_plain(block.alt)}]({path})", f"*{_plain(block.caption)}*"]
    if isinstance(block, Table):
        return [_table(block)]
    if isinstance(block, Heading):
        return [f"### {_plain(block.text)}"]
    if isinstance(block, Paragraph):
        return [_plain(block.text)]
    if isinstance(block, Points):
        return ["\n".join(f"- {_plain(sentence(each))}" for each in block.items)]
    if isinstance(block, Findings):
        words = {True: "OK", False: "Warning"}
        return [
            "\n".join(
                f"- **{words[each.ok]}:** {_plain(sentence(each.text))}" for each in block.items
            )
        ]
    if isinstance(block, Text):
        text = block.prompt + "".join(each.character for each in block.characters)
        return [f"### {_plain(block.title)}", _code(text), _plain(block.summary)]
    if isinstance(block, Bibliography):
        return [_code("\n\n".join(block.entries), "bibtex")]
    raise TypeError(f"a block of {type(block).__name__} has no form in Markdown")


def _table(table):
    header, *rows = (map(_cell, row) for row in [table.columns, *table.rows])
    rule = ["---", *["---" if table.words else "---:"] * (len(table.columns) - 1)]
    lines = [f"| {' | '.join(row)} |" for row in (header, rule, *rows)]
    return f"{_plain(table.caption)}\n\n" + "\n".join(lines)


def _cell(text):
    return _plain(text).replace("|", "\\|").replace("\n", " ")


def _plain(text):
    """Text in which no character is markup."""
    return re.sub(r"([\\`*_\[\]<>#$])", r"\\\1", printable(str(text)))


def _code(text, language=""):
    """A block of code with a fence that the text does not contain."""
    longest = max((len(each) for each in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{printable(text)}\n{fence}"
