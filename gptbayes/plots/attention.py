"""Figures of attention weights, roles of heads, and ablations.

Weights are shown by area and not only by color, so that figures can be read in grayscale. In each
cell the outer square is the upper end of the interval, and the inner square the lower end.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.lines import Line2D

from gptbayes.findings import probability_words
from gptbayes.plots.style import COLORS, drawable, intervals, literal

NUMBERS_UP_TO = 8
"""Maximum number of positions for which intervals are also written as numbers."""
LABELS_UP_TO = 40
"""Maximum number of positions for which each position is labeled."""
UPPER, MEAN, LOWER = "#dfe3ec", "#8da0cb", "#1f2a44"
BAR = 0.5
"""Length of a bar for probability 1, in cells."""
ERRORS_UP_TO = 4
"""Maximum number of heads beside each other whose probabilities are written with their errors."""
SOURCES = (("posterior", COLORS[0], "o"), ("prior", "0.55", "s"))


def plot_attention(summary: xr.Dataset, *, text: str | None = None, ax: Axes | None = None) -> Axes:
    """Plot attention weights at one context: mean and interval as nested squares.

    Parameters
    ----------
    summary : Dataset (query_position, key_position)
        ``mean``, ``lower`` and ``upper`` of one head at one context, as of
        `gptbayes.attention.summarise_attention` or `gptbayes.attention.attention_rollout`.
    text : str, optional
        The context; by default the coord ``text``.
    ax : Axes, optional

    Returns
    -------
    Axes
        Rows are query positions, columns key positions. The area of a square, as a fraction of
        the cell, is the upper end of the interval (light), the mean (medium) or the lower end
        (dark). For up to 8 positions the interval is also written in percent. Cells of future
        positions are empty. The first position can attend to itself only.

    See Also
    --------
    plot_attention_key : A legend for the squares.
    plot_weights : One row with intervals, posterior and prior.
    """
    ax = plt.gca() if ax is None else ax
    text = str(summary["text"].values) if text is None else text
    n = len(text)
    for name, color in (("upper", UPPER), ("mean", MEAN), ("lower", LOWER)):
        _squares(ax, summary[name].values, color)
    if n <= NUMBERS_UP_TO:
        _interval_numbers(ax, summary)
    _grid(ax, n)
    labels = [drawable(character) for character in text]
    size = "medium" if n <= 12 else "x-small"
    shown = np.arange(n) if n <= LABELS_UP_TO else np.arange(0, n, 4)
    ax.set_xticks(shown + 0.5, [labels[t] for t in shown], fontsize=size)
    ax.set_yticks(shown + 0.5, [labels[t] for t in shown], fontsize=size)
    ax.tick_params(length=0, pad=2)
    ax.set(xlim=(0, n), ylim=(n, 0), aspect="equal", xlabel="key position", ylabel="query position")
    sns.despine(ax=ax, left=True, bottom=True)
    return ax


def plot_attention_contexts(
    summary: xr.Dataset, *, axes: Sequence[Axes], key: bool = True
) -> Sequence[Axes]:
    """Plot the attention weights of a head at several contexts, one in each axes.

    Parameters
    ----------
    summary : Dataset (sequence, query_position, key_position)
        As for `plot_attention`, with the coord ``text`` (sequence).
    axes : sequence of Axes
        One for each of the first contexts.
    key : bool
        Whether the first axes has a legend.

    Returns
    -------
    sequence of Axes
    """
    for k, ax in enumerate(axes):
        plot_attention(summary.isel(sequence=k), ax=ax)
        if k:
            ax.set(xlabel="", ylabel="")
    if key:
        plot_attention_key(ax=axes[0])
    return axes


def plot_attention_key(*, ax: Axes | None = None) -> Axes:
    """Add a legend for the squares of `plot_attention`, in the half of future positions."""
    ax = plt.gca() if ax is None else ax
    names = (
        (UPPER, "upper end of the interval"),
        (MEAN, "mean"),
        (LOWER, "lower end"),
    )
    style: dict[str, Any] = {
        "marker": "s",
        "ls": "",
        "markeredgecolor": "0.4",
        "markeredgewidth": 0.5,
    }
    sizes = (11, 8, 5)
    handles = [
        Line2D([], [], color=color, ms=ms, label=name, **style)
        for (color, name), ms in zip(names, sizes, strict=True)
    ]
    ax.legend(handles=handles, loc="upper right", fontsize="x-small", frameon=False)
    return ax


def plot_weights(
    summary: xr.Dataset, *, prior: xr.Dataset | None = None, ax: Axes | None = None
) -> Axes:
    """Plot the attention weights of one query position: mean and interval, posterior and prior.

    Parameters
    ----------
    summary, prior : Dataset (key_position)
        One query position of a summary, as for `plot_attention`, with the coord ``text``.
    ax : Axes, optional

    Returns
    -------
    Axes
        The dotted line is the uniform weight.
    """
    ax = plt.gca() if ax is None else ax
    n = int(summary["query_position"]) + 1 if "query_position" in summary.coords else None
    summary = summary.isel(key_position=slice(n))
    prior = None if prior is None else prior.isel(key_position=slice(n))
    y = np.arange(summary.sizes["key_position"])
    _posterior_and_prior(ax, y, summary, prior)
    ax.axvline(1 / len(y), color="0.3", ls=":", lw=1)
    text = str(summary["text"].values)
    ax.set_yticks(y, [drawable(character) for character in text[: len(y)]])
    ax.set(
        ylim=(len(y) - 0.4, -0.6), xlim=(0, None), xlabel="attention weight", ylabel="key position"
    )
    sns.despine(ax=ax)
    return ax


def plot_roles(heads: xr.Dataset, *, ax: Axes | None = None) -> Axes:
    """Plot the probability that each head has the largest excess for each role.

    Parameters
    ----------
    heads : Dataset (source, role, layer, head)
        As in `gptbayes.attention.Roles`.
    ax : Axes, optional

    Returns
    -------
    Axes
        Filled bars and numbers (up to four heads ± Monte Carlo standard error) are posterior
        probabilities, outlined bars prior probabilities. Their sum over the heads of a role is
        less than one if in some draws no head exceeds uniform attention.
    """
    ax = plt.gca() if ax is None else ax
    n_layer, n_head = heads.sizes["layer"], heads.sizes["head"]
    table = heads.transpose("source", "role", "layer", "head")
    ours, theirs = (
        table["probability"].sel(source=source).values.reshape(-1, n_layer * n_head)
        for source in ("posterior", "prior")
    )
    error = table["probability_mcse"].sel(source="posterior").values.reshape(ours.shape)
    for (row, column), p in np.ndenumerate(ours):
        _bar(ax, row, column, p, height=0.4, facecolor=MEAN)
        _bar(ax, row, column, theirs[row, column], height=0.6, facecolor="none", edgecolor="black")
        words = (
            f"{p:.2f}"
            if n_head * n_layer > ERRORS_UP_TO
            else probability_words(p, error[row, column])
        )
        ax.text(column + BAR + 0.04, row + 0.5, words, va="center", fontsize="x-small")
    names = [
        (f"layer {layer + 1}\n" if n_layer > 1 else "") + f"head {head + 1}"
        for layer in range(n_layer)
        for head in range(n_head)
    ]
    starts = np.arange(len(names))
    ax.set_xticks(np.append(starts, starts + BAR), [*["0"] * len(names), *["1"] * len(names)])
    top = ax.secondary_xaxis("top")
    top.set_xticks(starts + BAR / 2, names)
    top.tick_params(length=0)
    top.spines["top"].set_visible(False)
    ax.set_yticks(np.arange(len(ours)) + 0.5, [literal(role) for role in table["role"].values])
    ax.set(xlim=(-0.05, len(names)), ylim=(len(ours), 0))
    ax.set_xlabel("probability")
    ax.tick_params(axis="y", length=0)
    for row in range(1, len(ours)):
        ax.axhline(row, color="0.92", lw=0.8, zorder=0)
    for start in starts:
        ax.axvline(float(start), color="0.75", lw=0.8, zorder=0)
    style: dict[str, Any] = {"marker": "s", "ls": "", "ms": 8, "markeredgewidth": 0.8}
    handles = [
        Line2D([], [], color=MEAN, markeredgecolor=MEAN, label="posterior", **style),
        Line2D([], [], color="none", markeredgecolor="black", label="prior", **style),
    ]
    place: dict[str, Any] = {"loc": "upper right", "bbox_to_anchor": (0.0, 0.0), "ncols": 1}
    ax.legend(handles=handles, frameon=False, fontsize="small", **place)
    sns.despine(ax=ax, left=True)
    return ax


def plot_role_excess(heads: xr.Dataset, *, ax: Axes | None = None) -> Axes:
    """Plot the excess attention of one head for each role, posterior and prior.

    Parameters
    ----------
    heads : Dataset (source, role)
        One head or one rank of `gptbayes.attention.Roles`.
    ax : Axes, optional

    Returns
    -------
    Axes
        Points and bars are means and intervals. For open circles P(posterior > prior) is between
        0.05 and 0.95.
    """
    ax = plt.gca() if ax is None else ax
    y = np.arange(heads.sizes["role"])
    _posterior_and_prior(ax, y, heads.sel(source="posterior"), heads.sel(source="prior"), heads)
    ax.axvline(0, color="0.3", ls=":", lw=1)
    ax.set_yticks(y, [literal(role) for role in heads["role"].values])
    ax.set(ylim=(len(y) - 0.4, -0.6), xlabel="attention weight minus uniform attention")
    sns.despine(ax=ax)
    return ax


def plot_ablation(average: xr.Dataset, *, ax: Axes | None = None) -> Axes:
    """Plot the cost of ablating each head or position, posterior and prior.

    Parameters
    ----------
    average : Dataset (source, layer, head) or (source, position)
        As in `gptbayes.attention.HeadAblation` or `gptbayes.attention.PositionAblation`.
    ax : Axes, optional

    Returns
    -------
    Axes
        Points and bars are means and intervals given the contexts. Positive values mean that the
        head or position improves the prediction. For open circles P(posterior > prior) is between
        0.05 and 0.95.
    """
    ax = plt.gca() if ax is None else ax
    if "position" in average.dims:
        rows, names = average, [f"{int(d)} before the last" for d in average["distance"].values]
    else:
        n_layer = average.sizes["layer"]
        rows = average.stack(row=("layer", "head"))
        names = [
            (f"layer {layer + 1}, " if n_layer > 1 else "") + f"head {head + 1}"
            for layer in range(n_layer)
            for head in range(average.sizes["head"])
        ]
    y = np.arange(len(names))
    _posterior_and_prior(ax, y, rows.sel(source="posterior"), rows.sel(source="prior"), rows)
    ax.axvline(0, color="0.3", ls=":", lw=1)
    ax.set_yticks(y, names)
    ax.set(ylim=(len(y) - 0.4, -0.6), xlabel="cost (nats per character)")
    sns.despine(ax=ax)
    return ax


def plot_agreement(agreement: xr.Dataset, *, ax: Axes | None = None) -> Axes:
    """Plot the rank correlation of attention weights and effects of knockout over positions.

    Parameters
    ----------
    agreement : Dataset (source, measure)
        As in `gptbayes.attention.PositionAblation`. With an additional dim ``fit``, there is one
        row for each fit and measure.
    ax : Axes, optional

    Returns
    -------
    Axes
        Points and bars are means and intervals, posterior and prior.
    """
    ax = plt.gca() if ax is None else ax
    rows = agreement if "fit" in agreement.dims else agreement.expand_dims(fit=[""])
    rows = rows.stack(row=("fit", "measure"))
    rows = rows.isel(row=rows["mean"].notnull().all("source").values)
    names = [", ".join(part for part in row if part) for row in rows["row"].values]
    y = np.arange(len(names))
    _posterior_and_prior(ax, y, rows.sel(source="posterior"), rows.sel(source="prior"), rows)
    ax.axvline(0, color="0.3", ls=":", lw=1)
    ax.set_yticks(y, names)
    ax.set(ylim=(len(y) - 0.4, -0.6), xlabel="rank correlation with the effect of ablation")
    sns.despine(ax=ax)
    return ax


def _squares(ax, values, color):
    """Draw centered squares whose area is the value as a fraction of the cell."""
    row, column = np.nonzero(values > 0)
    side = 0.94 * np.minimum(np.sqrt(values[row, column]), 1.0)
    left, top = column + (1 - side) / 2, row + (1 - side) / 2
    corners = [(left, top), (left + side, top), (left + side, top + side), (left, top + side)]
    squares = np.moveaxis(np.array(corners), -1, 0)  # (square, corner, xy)
    ax.add_collection(PolyCollection([*squares], facecolor=color, edgecolor="none"))


def _bar(ax, row, column, value, height, **style):
    """Draw a bar for a probability in the left part of a cell."""
    ax.barh(row + 0.5, BAR * value, height=height, left=column, linewidth=0.9, **style)


def _interval_numbers(ax, summary):
    """Write the interval of each weight that is not constant, in percent, below its square."""
    lower, upper = summary["lower"].values, summary["upper"].values
    for t in range(1, len(lower)):
        for s in range(t + 1):
            if upper[t, s] > lower[t, s]:
                words = f"{100 * lower[t, s]:.0f}–{100 * upper[t, s]:.0f}"
                box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.4}
                ax.text(s + 0.5, t + 0.86, words, ha="center", va="center", fontsize=5.5, bbox=box)


def _grid(ax, n):
    """Draw the cells of past and current positions, as one line with gaps."""
    x, y = [], []
    for k in range(n + 1):
        x += [0, min(k + 1, n), np.nan, k, k, np.nan]
        y += [k, k, np.nan, max(k - 1, 0), n, np.nan]
    ax.plot(x, y, color="0.8", lw=0.4, zorder=0)


def _posterior_and_prior(ax, y, ours, theirs, compared=None):
    """Draw intervals of posterior and prior; open circles where they do not differ."""
    for (name, color, marker), one, shift in zip(SOURCES, (ours, theirs), (0, 0.28), strict=True):
        if one is not None:
            intervals(ax, y + shift, one, color, name, marker=marker)
    if compared is not None:
        alike = abs(compared["exceeds_prior"].values - 0.5) < 0.45
        mean = ours["mean"].values
        ax.plot(mean[alike], y[alike], "o", ms=5, mfc="white", color=COLORS[0])
        if alike.any():
            ax.plot(
                [],
                [],
                "o",
                ms=5,
                mfc="white",
                color=COLORS[0],
                label="not distinguishable from the prior",
            )
    place: dict[str, Any] = {"loc": "lower right", "bbox_to_anchor": (1.0, 1.0), "ncols": 3}
    ax.legend(frameon=False, fontsize="x-small", borderaxespad=0.2, columnspacing=1, **place)
