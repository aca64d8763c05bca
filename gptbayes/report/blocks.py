"""The blocks of a report: paragraphs, findings, tables, pictures and texts."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from typing import Any, NamedTuple

from gptbayes import plots
from gptbayes.findings import Finding


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


class Table(NamedTuple):
    caption: str
    columns: list[str]
    rows: list[list[str]]
    words: bool = False
    kind: str = "table"


class Picture(NamedTuple):
    source: str
    alt: str
    caption: str
    kind: str = "picture"


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


def findings(*items: Finding | None) -> list[Findings]:
    """A block of those findings that there are; nothing if there is none."""
    found = [item for item in items if item is not None]
    return [Findings(found)] if found else []


def picture(fig, *, alt: str, caption: str) -> Picture:
    """A figure as a block, inlined as PNG."""
    buffer = io.BytesIO()
    fig.savefig(buffer, format="png", dpi=140)
    plots.close(fig)
    encoded = base64.b64encode(buffer.getvalue()).decode()
    return Picture(f"data:image/png;base64,{encoded}", alt, caption)
