"""Figures of posterior predictive text checks."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
import xarray as xr
from matplotlib.axes import Axes

from gptbayes.plots.style import COLORS, drawable

_LABELS = {
    "character": "character",
    "bigram": "pair of characters",
    "word_length": "word length (letters)",
}


def plot_text_checks(summary: xr.Dataset, *, ax: Axes | None = None) -> Axes:
    """Plot statistics of the held-out text among those of simulated texts.

    Parameters
    ----------
    summary : Dataset (statistic, text)
        As of `gptbayes.predict.check_statistics`.
    ax : Axes, optional

    Returns
    -------
    Axes
        Each row has its own scale, from the smallest to the largest value. The numbers on the
        right are the observed value, mean and interval of the simulated texts, and p-value.
    """
    ax = plt.gca() if ax is None else ax
    percent = round(100 * summary.attrs["prob"])
    styles = {  # checks that fail also have another marker
        True: {"marker": "o", "color": COLORS[0], "label": "held-out text"},
        False: {"marker": "D", "color": COLORS[3], "label": "held-out text, check fails"},
    }
    for y, name in enumerate(summary["statistic"].values):
        row = summary.sel(statistic=name)
        scale = _scale(row)
        texts = scale(row["replicated"].values)
        ax.plot(texts, np.full(texts.shape, y), "|", color="0.75", ms=7, label="simulated texts")
        interval = f"their {percent} % interval and mean"
        ax.hlines(y, scale(row["lower"]), scale(row["upper"]), color="0.35", lw=3, label=interval)
        ax.plot(scale(row["mean"]), y, "|", color="black", ms=12, mew=2)
        ax.plot(scale(row["observed"]), y, ls="", ms=7, mec="white", **styles[bool(row["ok"])])
        place = ax.get_yaxis_transform()
        ax.text(1.04, y, _numbers(row), transform=place, va="center", fontsize="small")
    ax.set_yticks(range(summary.sizes["statistic"]), list(summary["statistic"].values))
    ax.set(ylim=(summary.sizes["statistic"] - 0.5, -0.5), xlim=(-0.04, 1.04), xticks=[])
    handles = dict(zip(*reversed(ax.get_legend_handles_labels()), strict=True))
    ax.legend(
        handles.values(),
        handles.keys(),
        frameon=False,
        loc="lower left",
        bbox_to_anchor=(0, 1.0),
        ncols=2,
        fontsize="small",
    )
    sns.despine(ax=ax, bottom=True)
    return ax


def plot_frequencies(summary: xr.Dataset, *, n_items: int = 30, ax: Axes | None = None) -> Axes:
    """Plot relative frequencies of characters, bigrams or word lengths.

    Parameters
    ----------
    summary : Dataset (character), (bigram) or (word_length)
        As of `gptbayes.predict.relative_frequencies`.
    n_items : int
        Number of items, the most frequent first.
    ax : Axes, optional

    Returns
    -------
    Axes
        Dots are the held-out text; dashes and bars are means and intervals of simulated texts.
    """
    ax = plt.gca() if ax is None else ax
    (dim,) = summary.sizes
    larger = np.maximum(summary["mean"].values, summary["observed"].values)
    often = np.argsort(-larger, kind="stable")
    shown = summary.isel({dim: often[:n_items]})
    shown = shown.isel({dim: (shown["upper"] > 0).values | (shown["observed"] > 0).values})
    shown = shown.sortby(dim) if dim == "word_length" else shown.sortby("mean", ascending=False)
    x = np.arange(shown.sizes[dim])
    percent = round(100 * summary.attrs["prob"])
    label = f"simulated texts, mean and {percent} % interval"
    ax.vlines(x, 100 * shown["lower"], 100 * shown["upper"], color="0.6", lw=4, label=label)
    ax.plot(x, 100 * shown["mean"], "_", color="black", ms=7)
    ax.plot(x, 100 * shown["observed"], "o", color=COLORS[0], ms=4, label="held-out text")
    step = 1 if len(x) <= 12 or dim == "character" else 2  # labels of several signs are wide
    labels = [drawable(str(name)) for name in shown[dim].values[::step]]
    ax.set_xticks(x[::step], labels, fontsize="medium" if len(x) <= 12 else "small")
    ax.set(xlabel=_LABELS[str(dim)], ylabel="relative frequency (%)")
    ax.set_ylim(bottom=0)
    ax.legend(frameon=False, fontsize="small")
    sns.despine(ax=ax)
    return ax


def _scale(row):
    """A function that scales the values of a check to between 0 and 1."""
    values = np.append(row["replicated"].values, row["observed"])
    values = values[np.isfinite(values)]
    if not values.size or np.ptp(values) == 0:
        return lambda value: 0.5 + 0 * np.asarray(value, dtype=float)
    return lambda value: (np.asarray(value, dtype=float) - values.min()) / np.ptp(values)


def _numbers(row):
    percent = str(row["unit"].values) == "%"
    unit, factor = (" %", 100) if percent else ("", 1)
    numbers = [factor * float(row[name]) for name in ("observed", "mean", "lower", "upper")]
    observed, mean, lower, upper = (None if np.isnan(x) else f"{x:.1f}" for x in numbers)
    said = f"{observed}{unit}" if observed else "no words"
    model = f"{mean}{unit} ({lower} to {upper})" if mean else "no words"
    p = float(row["p"])
    return f"{said}; simulated {model}; p = {'-' if np.isnan(p) else f'{p:.2g}'}"
