"""Colors, fonts and visible white space of all figures."""

from __future__ import annotations

import functools
import io
import os
import sys
import textwrap
from pathlib import Path
from typing import Any

import matplotlib

# Open no window unless the user has selected a backend, as notebook kernels do.
if not os.environ.get("MPLBACKEND") and "matplotlib.pyplot" not in sys.modules:
    matplotlib.use("Agg", force=False)

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib import font_manager
from matplotlib.backend_bases import FigureCanvasBase
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Figure
from PIL import Image

from gptbayes.corpus import printable, visible

ONE_COLUMN, TWO_COLUMNS = 3.5, 7.2
"""Widths of figures for one and for two columns of a printed page, in inches."""
COLORS = sns.color_palette("colorblind")
MARKERS = "osD^vP*Xph"


def drawable(text: str) -> str:
    """Make white space visible, and replace characters without a glyph by their code points."""
    shown = ((visible(character), ord(character)) for character in text)
    drawn = (v if all(map(_has_glyph, v)) else f"U+{code:04X} " for v, code in shown)
    return _no_markup("".join(drawn)).rstrip()


def literal(name: str) -> str:
    """Escape a name for use as a label.

    Matplotlib interprets text between dollar signs as mathematics, and omits labels that begin with
    an underscore from legends.
    """
    shown = ((printable(character), ord(character)) for character in str(name))
    drawn = (v if v.isspace() or all(map(_has_glyph, v)) else f"U+{code:04X} " for v, code in shown)
    return _no_markup("".join(drawn))


def figure(
    n_axes: int = 1, *, width: float = TWO_COLUMNS, height: float = 3.2, columns: int | None = None
):
    """Create a figure with one or several axes.

    Parameters
    ----------
    n_axes : int
    width, height : float
        Width of the figure and height of a row of axes, in inches.
    columns : int, optional
        Maximum number of axes in a row; by default all.

    Returns
    -------
    tuple of Figure and ndarray of Axes
    """
    sns.set_theme(style="ticks", palette=COLORS, font=_families(), font_scale=0.85)
    columns = n_axes if columns is None else min(columns, n_axes)
    rows = -(-n_axes // columns)
    fig, axes = plt.subplots(
        rows, columns, figsize=(width, height * rows), squeeze=False, layout="constrained"
    )
    for unused in axes.ravel()[n_axes:]:
        unused.set_visible(False)
    return fig, axes.ravel()[:n_axes]


def show(fig: Figure, *, save: str | Path | None = None, dpi: int = 150) -> None:
    """Show a figure if the backend can, as in a notebook, and free its memory.

    Parameters
    ----------
    fig : Figure
    save : path, optional
        A file to which the figure is also written.
    dpi : int
        Resolution of the file, in dots per inch.
    """
    if save is not None:
        fig.savefig(save, dpi=dpi)
    if matplotlib.get_backend().lower() != "agg":
        plt.show()
    plt.close(fig)


def share_legend(fig: Figure, *, columns: int = 3) -> None:
    """Put one legend above the axes of a figure, in place of a legend of each of them.

    Parameters
    ----------
    fig : Figure
    columns : int
        Maximum number of entries in a row.
    """
    entries: dict[str, Any] = {}
    for ax in fig.axes:
        handles, labels = ax.get_legend_handles_labels()
        legend = ax.get_legend()
        if legend is not None:
            legend.remove()
            entries.update(zip(labels, handles, strict=True))
    place: dict[str, Any] = {"loc": "outside upper center", "ncols": min(columns, len(entries))}
    fig.legend(list(entries.values()), list(entries), frameon=False, fontsize="small", **place)


def image(fig: Figure, file_format: str, *, dpi: int = 150) -> bytes:
    """Draw a figure as the content of a file.

    Parameters
    ----------
    fig : Figure
    file_format : str
        One of `figure_formats`.
    dpi : int
        Resolution of formats that have one, in dots per inch.

    Returns
    -------
    bytes
        The same for the same figure: an SVG file has no date, and its identifiers are not random.
    """
    buffer, engine = io.BytesIO(), fig.get_layout_engine()
    fig.set_dpi(dpi)  # before the layout, as the width of text depends on it by a few per cent
    if engine is not None:  # once, because a second layout differs a little from the first
        engine.execute(fig)
        fig.set_layout_engine("none")
    if file_format == "png":  # `savefig` would draw it twice
        canvas = FigureCanvasAgg(fig)
        canvas.draw()
        Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB").save(buffer, "png")
        return buffer.getvalue()
    metadata = {"Date": None} if file_format == "svg" else None
    with matplotlib.rc_context({"svg.hashsalt": "gptbayes"}):
        fig.savefig(buffer, format=file_format, dpi=dpi, metadata=metadata)
    return buffer.getvalue()


def wrapped(name: str, width: int = 24) -> str:
    """Break a name that is too long for one line of a title."""
    return "\n".join(literal(line) for line in textwrap.wrap(name, width)) or " "


def figure_formats() -> list[str]:
    """List the file formats of figures, as file extensions without the dot."""
    return sorted(FigureCanvasBase.get_supported_filetypes())


def close(fig: Figure) -> None:
    """Free the memory of a figure."""
    plt.close(fig)


def series_style(k: int) -> dict[str, Any]:
    """Color and marker of the kth of several series, different for the first hundred.

    Parameters
    ----------
    k : int

    Returns
    -------
    dict
        Of matplotlib's properties of lines.
    """
    n = len(COLORS)
    return {"color": COLORS[k % n], "marker": MARKERS[(k + k // n) % len(MARKERS)]}


def intervals(ax, y, summary, color, label, marker, ms=5):
    ax.hlines(y, summary["lower"], summary["upper"], color=color, lw=2)
    ax.plot(summary["mean"], y, marker, color=color, ms=ms, label=label)


def percent(value):
    return f"{100 * value:.0f}"


def _no_markup(text):
    text = text.replace("$", r"\$")
    return "\N{THIN SPACE}" + text if text.startswith("_") else text


@functools.cache
def _families():
    """The default font of matplotlib, and installed fonts for other scripts."""
    installed = sorted({font.name for font in font_manager.fontManager.ttflist})
    return ["DejaVu Sans", *(name for name in installed if "CJK" in name)]


@functools.cache
def _has_glyph(character):
    paths = (font_manager.findfont(name) for name in _families())
    return any(font_manager.get_font(path).get_char_index(ord(character)) for path in paths)
