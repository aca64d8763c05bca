"""What a report is made of: paragraphs, findings, tables, pictures and texts."""

from __future__ import annotations

import base64
import io
from typing import NamedTuple

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
    unsure: bool


class Text(NamedTuple):
    title: str
    prompt: str
    characters: list[Character]
    summary: str
    kind: str = "text"


class Section(NamedTuple):
    """One question of the report and the blocks that answer it."""

    id: str
    title: str
    blocks: list


def picture(fig, *, alt: str, caption: str) -> Picture:
    """A figure as a block, inlined as PNG."""
    buffer = io.BytesIO()
    fig.savefig(buffer, format="png", dpi=140)
    plots.close(fig)
    encoded = base64.b64encode(buffer.getvalue()).decode()
    return Picture(f"data:image/png;base64,{encoded}", alt, caption)
