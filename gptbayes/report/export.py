"""Tables and figures of a report as files."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

from gptbayes.files import replacing
from gptbayes.report.blocks import Bibliography, Draws, Picture, Report, Table


def export_files(
    report: Report,
    folder: str | Path,
    *,
    figures: Sequence[str] = ("svg", "png"),
    tables: bool = True,
) -> list[Path]:
    """Write every figure and table of a report to a folder.

    Parameters
    ----------
    report : Report
    folder : path
        It is created if it does not exist.
    figures : sequence of str
        Formats of figures. Their sizes are those of one or two columns of a page, see
        `gptbayes.plots.ONE_COLUMN`.
    tables : bool
        Whether tables are written too, as CSV, and the references as ``references.bib``.

    Returns
    -------
    list of pathlib.Path
    """
    folder, written = Path(folder), []
    folder.mkdir(parents=True, exist_ok=True)
    for name, picture in pictures_of(report):
        for each in figures:
            written.append(folder / f"{name}.{each}")
            _replace(written[-1], picture.bytes(each))
    for name, table in _tables_of(report) if tables else ():
        written.append(folder / f"{name}.csv")
        with open(written[-1], "w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([table.columns, *table.rows])
    for section in report.sections if tables else ():
        for block in section.blocks:
            if isinstance(block, Bibliography):
                written.append(folder / "references.bib")
                _replace(written[-1], ("\n\n".join(block.entries) + "\n").encode())
    return written


def pictures_of(report: Report) -> Iterator[tuple[str, Picture]]:
    """The figures of a report, with the stems of their files.

    Parameters
    ----------
    report : Report

    Yields
    ------
    tuple of str and Picture
    """
    for section in report.sections:
        for block in section.blocks:
            picture = block.picture if isinstance(block, Draws) else block
            if isinstance(picture, Picture):
                yield file_stem(section.id, picture.name), picture


def file_stem(section_id: str, name: str) -> str:
    """The stem of the file of a figure or table."""
    return f"{section_id}-{name}"


def _tables_of(report):
    if report.abstract is not None:
        yield "abstract", report.abstract.table
    for section in report.sections:
        for block in section.blocks:
            if isinstance(block, Table):
                yield file_stem(section.id, block.name), block


def _replace(path, content):
    with replacing(path) as partial:
        partial.write_bytes(content)
