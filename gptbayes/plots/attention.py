"""Figures of where a fit looks, what its heads do, and what that matters.

Sizes say what colours say, so that a figure can be read in grey: a weight is an area. The outer
square of a cell is the upper end of the interval, the inner one its lower end.
"""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from gptbayes.plots.style import COLOURS, drawable, intervals

NUMBERS_UP_TO = 8
"""Positions: a larger map has marks and no figures."""
LABELS_UP_TO = 40
UPPER, MEAN, LOWER = "#dfe3ec", "#8da0cb", "#1f2a44"
BAR = 0.5
"""Length of a bar that stands for 1."""
SOURCES = (("posterior", COLOURS[0], "o"), ("prior", "0.55", "s"))


def plot_attention(summary: xr.Dataset, *, text: str | None = None, ax: Axes | None = None) -> Axes:
    """Attention weights at one context: mean and interval of each as nested squares.

    Parameters
    ----------
    summary : Dataset (query_position, key_position)
        ``mean``, ``lower`` and ``upper``, as `gptbayes.attention.summarise_attention` or
        ``attention_rollout`` give them, one context and one head of them chosen.
    text : str, optional
        The context, by default the coord ``text``.
    ax : Axes, optional

    Returns
    -------
    Axes
        The area of each square is a share of the cell: the palest is the upper end of the
        interval, the middle one the mean, the darkest the lower end. Up to 8 positions the
        interval also stands below them, in per cent. A single draw has its mean only. The future
        is left empty, and the first position is certain.
    """
    ax = plt.gca() if ax is None else ax
    text = str(summary["text"].values) if text is None else text
    n = len(text)
    for name, colour in (("upper", UPPER), ("mean", MEAN), ("lower", LOWER)):
        _squares(ax, summary[name].values, colour)
    if n <= NUMBERS_UP_TO:
        _interval_numbers(ax, summary)
    _grid(ax, n)
    labels = [drawable(character) for character in text]
    size = "medium" if n <= 12 else "x-small"
    shown = np.arange(n) if n <= LABELS_UP_TO else np.arange(0, n, 4)
    ax.set_xticks(shown + 0.5, [labels[t] for t in shown], fontsize=size)
    ax.set_yticks(shown + 0.5, [labels[t] for t in shown], fontsize=size)
    ax.tick_params(length=0, pad=2)
    ax.set(xlim=(0, n), ylim=(n, 0), aspect="equal", xlabel="looks at", ylabel="position")
    sns.despine(ax=ax, left=True, bottom=True)
    return ax


def plot_attention_contexts(
    summary: xr.Dataset, *, axes: Sequence[Axes], key: bool = True
) -> Sequence[Axes]:
    """The same head at several contexts, one in each of the axes.

    Parameters
    ----------
    summary : Dataset (sequence, query_position, key_position)
        As for `plot_attention`, with coord ``text`` (sequence).
    axes : sequence of Axes
        As many contexts are drawn as there are axes.
    key : bool
        Whether the first of them explains the squares.

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
    """What the squares of `plot_attention` mean, as a legend in the empty half of the map."""
    ax = plt.gca() if ax is None else ax
    names = (
        (UPPER, "upper end of the interval"),
        (MEAN, "mean"),
        (LOWER, "lower end"),
    )
    style = {"marker": "s", "ls": "", "markeredgecolor": "0.4", "markeredgewidth": 0.5}
    sizes = (11, 8, 5)
    handles = [
        Line2D([], [], color=colour, ms=ms, label=name, **style)
        for (colour, name), ms in zip(names, sizes, strict=True)
    ]
    ax.legend(handles=handles, loc="upper right", fontsize="x-small", frameon=False)
    return ax


def plot_weights(
    summary: xr.Dataset, *, prior: xr.Dataset | None = None, ax: Axes | None = None
) -> Axes:
    """Chosen weights, one row each: mean and interval, the prior's beside them.

    Parameters
    ----------
    summary, prior : Dataset (key_position)
        One row of a map, as `plot_attention` draws it, with coord ``text``: what the last
        position looks at if that is the row chosen.
    ax : Axes, optional

    Returns
    -------
    Axes
        Dotted is the uniform look.
    """
    ax = plt.gca() if ax is None else ax
    n = int(summary["query_position"]) + 1 if "query_position" in summary.coords else None
    summary, prior = (
        each if each is None else each.isel(key_position=slice(n)) for each in (summary, prior)
    )
    y = np.arange(summary.sizes["key_position"])
    _beside(ax, y, summary, prior)
    ax.axvline(1 / len(y), color="0.3", ls=":", lw=1)
    text = str(summary["text"].values)
    ax.set_yticks(y, [drawable(character) for character in text[: len(y)]])
    ax.set(ylim=(len(y) - 0.4, -0.6), xlim=(0, None), xlabel="attention weight", ylabel="looks at")
    sns.despine(ax=ax)
    return ax


def plot_roles(heads: xr.Dataset, *, ax: Axes | None = None) -> Axes:
    """How probable it is that each head is the head of each role, posterior and prior.

    Parameters
    ----------
    heads : Dataset (source, role, layer, head)
        As in `gptbayes.attention.Roles`.
    ax : Axes, optional

    Returns
    -------
    Axes
        Full bars are posterior probabilities, outlined ones the prior's; figures are the
        posterior's with their Monte Carlo standard errors. The heads of a role need not sum to
        one: there may be none that looks there more than uniform.
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
        words = f"{p:.2f}" + ("" if np.isnan(error[row, column]) else f" ±{error[row, column]:.2f}")
        ax.text(column + BAR + 0.04, row + 0.5, words, va="center", fontsize="x-small")
    names = [
        (f"layer {layer + 1}\n" if n_layer > 1 else "") + f"head {head + 1}"
        for layer in range(n_layer)
        for head in range(n_head)
    ]
    ax.set_xticks(np.arange(len(names)) + BAR, names)
    ax.set_yticks(np.arange(len(ours)) + 0.5, [str(role) for role in table["role"].values])
    ax.set(xlim=(-0.05, len(names)), ylim=(len(ours), 0))
    ax.tick_params(length=0)
    for row in range(1, len(ours)):
        ax.axhline(row, color="0.92", lw=0.8, zorder=0)
    style = {"marker": "s", "ls": "", "ms": 8, "markeredgewidth": 0.8}
    handles = [
        Line2D([], [], color=MEAN, markeredgecolor=MEAN, label="posterior", **style),
        Line2D([], [], color="none", markeredgecolor="black", label="prior", **style),
    ]
    place = {"loc": "lower right", "bbox_to_anchor": (1.0, 1.0), "ncols": 2}
    ax.legend(handles=handles, frameon=False, **place)
    sns.despine(ax=ax, left=True, bottom=True)
    return ax


def plot_role_excess(heads: xr.Dataset, *, ax: Axes | None = None) -> Axes:
    """How much more than a uniform look one head gives to each class, prior beside posterior.

    Parameters
    ----------
    heads : Dataset (source, role)
        Of one head, or of one rank, as in `gptbayes.attention.Roles`.
    ax : Axes, optional

    Returns
    -------
    Axes
        Open circles are what cannot be told from the prior: a posterior draw has more of it than a
        prior draw with a probability between 0.05 and 0.95.
    """
    ax = plt.gca() if ax is None else ax
    y = np.arange(heads.sizes["role"])
    _beside(ax, y, heads.sel(source="posterior"), heads.sel(source="prior"), heads)
    ax.axvline(0, color="0.3", ls=":", lw=1)
    ax.set_yticks(y, [str(role) for role in heads["role"].values])
    ax.set(ylim=(len(y) - 0.4, -0.6), xlabel="attention beyond a uniform look")
    sns.despine(ax=ax)
    return ax


def plot_ablation(average: xr.Dataset, *, ax: Axes | None = None) -> Axes:
    """What removing each head, or each position, costs the prediction, prior beside posterior.

    Parameters
    ----------
    average : Dataset (source, layer, head) or (source, position)
        As in `gptbayes.attention.HeadAblation` and ``PositionAblation``.
    ax : Axes, optional

    Returns
    -------
    Axes
        Bars are intervals of the posterior given the contexts. To the right: it helped.
    """
    ax = plt.gca() if ax is None else ax
    if "position" in average.dims:
        rows, names = average, [f"{int(back)} before the last" for back in average["distance"].values]
        names[-1] = "the one before the last"
    else:
        n_layer = average.sizes["layer"]
        rows = average.stack(row=("layer", "head"))
        names = [
            (f"layer {layer + 1}, " if n_layer > 1 else "") + f"head {head + 1}"
            for layer in range(n_layer)
            for head in range(average.sizes["head"])
        ]
    y = np.arange(len(names))
    _beside(ax, y, rows.sel(source="posterior"), rows.sel(source="prior"), rows)
    ax.axvline(0, color="0.3", ls=":", lw=1)
    ax.set_yticks(y, names)
    ax.set(ylim=(len(y) - 0.4, -0.6), xlabel="lost by removal, nats per character")
    sns.despine(ax=ax)
    return ax


def plot_agreement(agreement: xr.Dataset, *, ax: Axes | None = None) -> Axes:
    """How well attention ranks positions by the effect of their removal.

    Parameters
    ----------
    agreement : Dataset (source, measure)
        As in `gptbayes.attention.PositionAblation`; with a dim ``fit`` in front, one row for each
        fit and measure.
    ax : Axes, optional

    Returns
    -------
    Axes
    """
    ax = plt.gca() if ax is None else ax
    rows = agreement if "fit" in agreement.dims else agreement.expand_dims(fit=[""])
    rows = rows.stack(row=("fit", "measure"))
    rows = rows.isel(row=rows["mean"].notnull().all("source").values)
    names = [", ".join(part for part in row if part) for row in rows["row"].values]
    y = np.arange(len(names))
    _beside(ax, y, rows.sel(source="posterior"), rows.sel(source="prior"), rows)
    ax.axvline(0, color="0.3", ls=":", lw=1)
    ax.set_yticks(y, names)
    ax.set(ylim=(len(y) - 0.4, -0.6), xlabel="rank correlation with the effect of removal")
    sns.despine(ax=ax)
    return ax


def _squares(ax, values, colour):
    """Squares in the middle of cells whose area is a value."""
    patches = []
    for (row, column), value in np.ndenumerate(values):
        if value > 0:
            side = 0.94 * min(np.sqrt(value), 1.0)
            patches.append(Rectangle((column + (1 - side) / 2, row + (1 - side) / 2), side, side))
    ax.add_collection(PatchCollection(patches, facecolor=colour, edgecolor="none"))


def _bar(ax, row, column, value, height, **style):
    """A bar whose length is a probability, in the left part of a cell."""
    ax.barh(row + 0.5, BAR * value, height=height, left=column, linewidth=0.9, **style)


def _interval_numbers(ax, summary):
    """The interval of every weight that is not certain, in per cent, at the foot of its cell."""
    lower, upper = summary["lower"].values, summary["upper"].values
    for t in range(1, len(lower)):
        for s in range(t + 1):
            if upper[t, s] > lower[t, s]:
                words = f"{100 * lower[t, s]:.0f}–{100 * upper[t, s]:.0f}"
                box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.4}
                ax.text(s + 0.5, t + 0.86, words, ha="center", va="center", fontsize=5.5, bbox=box)


def _grid(ax, n):
    """Cells of the past."""
    for k in range(n + 1):
        row = max(k - 1, 0)
        ax.plot([0, min(k + 1, n)], [k, k], color="0.8", lw=0.4, zorder=0)
        ax.plot([k, k], [row, n], color="0.8", lw=0.4, zorder=0)


def _beside(ax, y, ours, theirs, compared=None):
    """Intervals of the posterior, the prior's below; open circles where they are alike."""
    for (name, colour, marker), one, shift in zip(SOURCES, (ours, theirs), (0, 0.28), strict=True):
        if one is not None:
            intervals(ax, y + shift, one, colour, name, marker=marker)
    if compared is not None:
        alike = abs(compared["exceeds_prior"].values - 0.5) < 0.45
        mean = ours["mean"].values
        ax.plot(mean[alike], y[alike], "o", ms=5, mfc="white", color=COLOURS[0])
        if alike.any():
            ax.plot([], [], "o", ms=5, mfc="white", color=COLOURS[0], label="like the prior")
    place = {"loc": "lower right", "bbox_to_anchor": (1.0, 1.0), "ncols": 3}
    ax.legend(frameon=False, fontsize="x-small", borderaxespad=0.2, columnspacing=1, **place)
