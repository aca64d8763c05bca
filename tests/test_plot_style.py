"""Figures for everybody and for print: colors, grayscale, sizes, legends, files."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from io import BytesIO

import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr
from matplotlib.colors import to_rgb
from PIL import Image

from gptbayes import plots
from gptbayes.plots.attention import LOWER, MEAN, UPPER

# Full dichromacy, for linear RGB (Machado, Oliveira & Fernandes 2009, table 1).
VISION = {
    "all": np.eye(3),
    "without red cones": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "without green cones": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "without blue cones": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}
SRGB = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
CLEAR = 10.0
"""Differences of color, as of CIE 1976, that are seen at a glance."""


def lab(color, vision="all"):
    """CIE L*a*b* of a color as some eyes see it."""
    rgb = np.array(to_rgb(color))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    seen = np.clip(np.array(VISION[vision]) @ linear, 0, 1)
    x, y, z = np.cbrt(np.maximum(SRGB @ seen / SRGB.sum(axis=1), 0.008856))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("vision", list(VISION))
def test_colors_differ_for_all_eyes(vision):
    seen = [lab(color, vision) for color in plots.COLORS]
    distances = [np.linalg.norm(a - b) for k, a in enumerate(seen) for b in seen[:k]]
    assert min(distances) > CLEAR


def test_nested_squares_differ_in_grayscale():
    upper, mean, lower = (lab(color)[0] for color in (UPPER, MEAN, LOWER))
    assert upper - mean > 2 * CLEAR
    assert mean - lower > 2 * CLEAR


def pit(n):
    """Differences of the PIT of several fits, and a table by position."""
    names = [f"fit {k}" for k in range(n)]
    zero = xr.DataArray(np.zeros((n, 5)), dims=("fit", "value"), coords={"fit": names})
    band = xr.Dataset({"difference": zero, "lower": zero - 1, "upper": zero + 1})
    by_position = xr.Dataset(
        {
            "log_score": zero.rename(value="position"),
            "log_score_se": zero.rename(value="position") + 0.1,
        },
        {"position": np.arange(5)},
    )
    return band.assign_coords(value=np.linspace(0, 1, 5)).assign_attrs(prob=0.9), by_position


def test_several_fits_are_told_apart_without_color():
    band, by_position = pit(4)
    fig, (left, right) = plots.figure(2)
    plots.plot_pit(band, ax=left)
    plots.plot_by_position(by_position, ax=right)
    styles = [line.get_linestyle() for line in left.lines[1:]]
    markers = [line.get_marker() for line in right.lines if line.get_marker() not in "_|"]
    assert len(set(styles)) == 4
    assert len({m for m in markers if m != "None"}) == 4
    plots.share_legend(fig)
    (legend,) = fig.legends
    words = [text.get_text() for text in legend.get_texts()]
    assert words == ["90 % of calibrated fits", *(f"fit {k}" for k in range(4))]
    assert left.get_legend() is None
    assert right.get_legend() is None
    fig.canvas.draw()
    below = max(ax.get_window_extent().y1 for ax in (left, right))
    assert legend.get_window_extent().y0 >= below  # over no line
    plt.close(fig)


@pytest.mark.parametrize("width", [plots.ONE_COLUMN, plots.TWO_COLUMNS])
def test_a_figure_is_as_wide_as_its_columns_in_every_file(width):
    fig, (ax,) = plots.figure(width=width, height=2.0)
    ax.plot([0, 1], [0, 1])
    svg = plots.image(fig, "svg")
    assert ET.fromstring(svg).get("width") == f"{72 * width:g}pt"
    assert plots.image(fig, "svg") == svg
    picture = Image.open(BytesIO(plots.image(fig, "png", dpi=100)))
    assert picture.size == (round(100 * width), 200)
    assert np.asarray(picture).min() < 50  # something is drawn
    plt.close(fig)
