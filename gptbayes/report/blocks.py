"""The blocks of a report: paragraphs, findings, tables, pictures, texts and views of draws."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from gptbayes import plots
from gptbayes.findings import Finding

DPI = 160
"""Resolution of pictures on a page."""
PIXELS = 112
"""Width of an inch of a figure on a page, in pixels of CSS."""


class Paragraph(NamedTuple):
    text: str
    kind: str = "paragraph"


class Points(NamedTuple):
    items: list[str]
    kind: str = "points"


class Heading(NamedTuple):
    text: str
    kind: str = "heading"


class Findings(NamedTuple):
    items: list[Finding]
    kind: str = "findings"


class Link(NamedTuple):
    """A cell of a table that leads to another page."""

    text: str
    href: str

    def __str__(self) -> str:
        return self.text


class Table(NamedTuple):
    """A table.

    Attributes
    ----------
    caption : str
    columns : list of str
    rows : list of list of str or Link
    name : str
        The stem of the file to which it is exported.
    words : bool
        Whether its cells are words rather than numbers.
    """

    caption: str
    columns: list[str]
    rows: list[list[Any]]
    name: str
    words: bool = False
    kind: str = "table"


class Picture(NamedTuple):
    """A figure, which is drawn when it is saved.

    Attributes
    ----------
    figure : Figure
    name : str
        The stem of the file to which it is exported.
    alt, caption : str
    """

    figure: plots.Figure
    name: str
    alt: str
    caption: str
    kind: str = "picture"

    def bytes(self, file_format: str) -> bytes:
        """The figure in a file format such as ``png`` or ``svg``."""
        return plots.image(self.figure, file_format, dpi=DPI)

    @property
    def width(self) -> int:
        """The width on a page, in pixels of CSS, at which labels are as large as the text."""
        return round(PIXELS * self.figure.get_figwidth())

    @property
    def source(self) -> str:
        """The figure inlined as PNG."""
        return f"data:image/png;base64,{base64.b64encode(self.bytes('png')).decode()}"


class Character(NamedTuple):
    character: str
    numbers: list[str]
    level: int
    wide: bool


class Text(NamedTuple):
    title: str
    prompt: str
    characters: list[Character]
    summary: str
    kind: str = "text"


class Draws(NamedTuple):
    """A view that the reader leafs through draw by draw.

    Attributes
    ----------
    view : {"attention", "next", "text"}
        Which view of ``draws.js`` shows it.
    label : str
        What is seen, for those who do not see it.
    caption : str
    data : mapping
        As JSON; see `gptbayes.report.draws`.
    picture : Picture, optional
        Shown in its place on paper, and where scripts do not run.
    """

    view: str
    label: str
    caption: str
    data: Mapping[str, Any]
    picture: Picture | None = None
    kind: str = "draws"


class Bibliography(NamedTuple):
    """References as BibTeX."""

    entries: list[str]
    kind: str = "bibliography"


class Summary(NamedTuple):
    """One paragraph of an abstract.

    Attributes
    ----------
    label, text : str
    link : str
        The anchor of the section that has the details.
    """

    label: str
    text: str
    link: str


class Abstract(NamedTuple):
    """What a report says on one screen.

    Attributes
    ----------
    paragraphs : list of Summary
    table : Table
    """

    paragraphs: list[Summary]
    table: Table


class Section(NamedTuple):
    """One section of the report.

    Attributes
    ----------
    id : str
        The anchor of the section, also the stem of its warnings' anchors.
    title : str
    question : str
        The question that the section answers, shown below the title.
    blocks : list
    """

    id: str
    title: str
    question: str
    blocks: list[Any]

    @property
    def warnings(self) -> Iterator[Finding]:
        """The warnings of the section, in the order of the page."""
        for block in self.blocks:
            if isinstance(block, Findings):
                yield from (finding for finding in block.items if not finding.ok)


class Report(NamedTuple):
    """A report, in no format yet.

    Attributes
    ----------
    title, subtitle : str
    sections : list of Section
    footer : str
    abstract : Abstract, optional
    """

    title: str
    subtitle: str
    sections: Sequence[Section]
    footer: str
    abstract: Abstract | None = None


def findings(*items: Finding | None) -> list[Findings]:
    """A block of those findings that there are; nothing if there is none."""
    found = [item for item in items if item is not None]
    return [Findings(found)] if found else []


def picture(fig: plots.Figure, *, name: str, alt: str, caption: str) -> Picture:
    """A figure as a block."""
    plots.close(fig)  # pyplot forgets it, and it can still be saved
    return Picture(fig, name, alt, caption)
