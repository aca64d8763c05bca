"""What all figures share: colours, fonts, characters that can be seen."""

from __future__ import annotations

import functools
import os
import sys
from pathlib import Path

import matplotlib

# Without a choice of the user's, no window is opened. A notebook's kernel has chosen.
if not os.environ.get("MPLBACKEND") and "matplotlib.pyplot" not in sys.modules:
    matplotlib.use("Agg", force=False)

import matplotlib.pyplot as plt
import seaborn as sns
from matplotlib import font_manager
from matplotlib.backend_bases import FigureCanvasBase
from matplotlib.figure import Figure

from gptbayes.corpus import printable, visible

COLOURS = sns.color_palette("colorblind")


MARKERS = "osD^vP*Xph"


def drawable(text: str) -> str:
    """A text as it can be drawn: its visible characters, or their code points without a glyph."""
    shown = ((visible(character), ord(character)) for character in text)
    drawn = (v if all(map(_has_glyph, v)) else f"U+{code:04X} " for v, code in shown)
    return _no_markup("".join(drawn)).rstrip()


def literal(name: str) -> str:
    """A name as a label that shows it and nothing else.

    Matplotlib takes what is between dollar signs for mathematics, and leaves labels that begin
    with an underscore out of legends.
    """
    return _no_markup(printable(str(name)))


def figure(n_axes: int = 1, *, width: float = 7.0, height: float = 3.2, columns: int | None = None):
    """A figure with one or several axes in the house style.

    Returns
    -------
    tuple of Figure and ndarray of Axes
    """
    sns.set_theme(style="ticks", palette=COLOURS, font=_families(), font_scale=0.85)
    columns = n_axes if columns is None else min(columns, n_axes)
    rows = -(-n_axes // columns)
    fig, axes = plt.subplots(
        rows, columns, figsize=(width, height * rows), squeeze=False, layout="constrained"
    )
    for unused in axes.ravel()[n_axes:]:
        unused.set_visible(False)
    return fig, axes.ravel()[:n_axes]


def show(fig: Figure, *, save: str | Path | None = None, dpi: int = 150) -> None:
    """Show a figure where figures can be shown, such as in a notebook, and free its memory.

    Parameters
    ----------
    fig : Figure
    save : path, optional
        A file to which it is written as well.
    dpi : int
        Of the file.
    """
    if save is not None:
        fig.savefig(save, dpi=dpi)
    if matplotlib.get_backend().lower() != "agg":
        plt.show()
    plt.close(fig)


def figure_formats() -> list[str]:
    """Endings of files that a figure can be written to, without the dot."""
    return sorted(FigureCanvasBase.get_supported_filetypes())


def close(fig: Figure) -> None:
    """Free a figure's memory."""
    plt.close(fig)


def intervals(ax, y, summary, colour, label, marker):
    ax.hlines(y, summary["lower"], summary["upper"], color=colour, lw=2)
    ax.plot(summary["mean"], y, marker, color=colour, ms=5, label=label)


def percent(value):
    return f"{100 * value:.0f}"


def _no_markup(text):
    text = text.replace("$", r"\$")
    return "\N{THIN SPACE}" + text if text.startswith("_") else text


@functools.cache
def _families():
    """The font that matplotlib brings, and what this machine has for other scripts."""
    installed = sorted({font.name for font in font_manager.fontManager.ttflist})
    return ["DejaVu Sans", *(name for name in installed if "CJK" in name)]


@functools.cache
def _has_glyph(character):
    paths = (font_manager.findfont(name) for name in _families())
    return any(font_manager.get_font(path).get_char_index(ord(character)) for path in paths)
