"""What a report is made of: paragraphs, findings, tables, pictures and texts."""

from __future__ import annotations

import base64
import io
from typing import NamedTuple

import numpy as np
import xarray as xr

from gptbayes import plots
from gptbayes.diagnostics import Finding

LEVELS = (0.05, 0.15, 0.35, 0.6)
"""Probabilities between the shades under a written character."""

UNSURE = 0.4
"""An interval of a probability wider than this is marked."""


class Paragraph(NamedTuple):
    text: str
    kind: str = "paragraph"


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
    title: str
    level: int
    unsure: bool


class Text(NamedTuple):
    title: str
    prompt: str
    characters: list[Character]
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


def text(title: str, summary: xr.Dataset) -> Text:
    """A written text as a block, the numbers of each character in its tooltip.

    Parameters
    ----------
    title : str
    summary : Dataset (new_position)
        As `gptbayes.predict.write` returns it.
    """
    percent = round(100 * summary.attrs["prob"])
    characters = []
    for character, mean, lower, upper in zip(
        *(summary[name].values for name in ("character", "mean", "lower", "upper")), strict=True
    ):
        shown = plots.visible(str(character))
        characters.append(
            Character(
                "↵\n" if character == "\n" else str(character),
                f"{shown}: probability {mean:.2f}, {percent} % interval {lower:.2f} to {upper:.2f}",
                int(np.searchsorted(LEVELS, mean)),
                bool(upper - lower > UNSURE),
            )
        )
    return Text(title, summary.attrs["prompt"], characters)
