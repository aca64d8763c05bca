"""Figures of how reliable predictions are, and of what a method gains."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
import xarray as xr
from matplotlib.axes import Axes

from gptbayes.plots.style import COLOURS, MARKERS, literal, percent


def plot_reliability(summary: xr.Dataset, *, ax: Axes | None = None) -> Axes:
    """Reliability curve with its simultaneous band, and where the forecasts are.

    Parameters
    ----------
    summary : Dataset (bin)
        One fit of ``curve`` in `gptbayes.predict.Reliability`.
    ax : Axes, optional

    Returns
    -------
    Axes
        Filled points are outside the band. Bars along the bottom are the share of all probability
        in each bin, a fifth of the axes for all of it.
    """
    ax = plt.gca() if ax is None else ax
    for low, high, share in zip(
        *(summary[n].values for n in ("low", "high", "share")), strict=True
    ):
        ax.bar(low, 0.2 * share, high - low, align="edge", color="0.8", lw=0.5, edgecolor="white")
    seen = summary.isel(bin=np.flatnonzero(summary["count"].values))
    x = seen["predicted"].values
    label = f"{percent(summary.attrs['prob'])} % of calibrated curves" if summary.attrs else None
    ax.fill_between(x, seen["lower"], seen["upper"], color="0.9", lw=0, label=label)
    ax.vlines(x, seen["lower"], seen["upper"], color="0.75", lw=1)
    ax.plot([0, 1], [0, 1], color="0.4", lw=1, ls="--")
    ax.plot(x, seen["observed"], color=COLOURS[0], lw=1.2)
    for inside, fill, words in ((True, "white", "inside"), (False, COLOURS[0], "outside")):
        chosen = seen["inside"].values == inside
        style = {"mfc": fill, "mec": COLOURS[0], "color": COLOURS[0], "ms": 5, "ls": "none"}
        if chosen.any():
            ax.plot(x[chosen], seen["observed"].values[chosen], "o", label=words, **style)
    ax.set(xlim=(0, 1), ylim=(0, 1), xlabel="probability given", ylabel="share that came")
    ax.legend(frameon=False, loc="upper left", fontsize="small")
    sns.despine(ax=ax)
    return ax


def plot_pit(summary: xr.Dataset, *, ax: Axes | None = None) -> Axes:
    """How far the ECDF of the PIT is from that of uniform values, one line for each fit.

    Parameters
    ----------
    summary : Dataset (fit, value)
        ``pit`` of `gptbayes.predict.Reliability`.
    ax : Axes, optional

    Returns
    -------
    Axes
        Lines below the band are of over-confident forecasts: too many surprises.
    """
    ax = plt.gca() if ax is None else ax
    one, x = summary.isel(fit=0), summary["value"].values
    label = f"{percent(summary.attrs['prob'])} % of calibrated ones" if summary.attrs else None
    ax.fill_between(x, one["lower"], one["upper"], color="0.9", lw=0, label=label)
    ax.axhline(0, color="0.4", lw=1, ls="--")
    for k, name in enumerate(summary["fit"].values):
        line = summary["difference"].sel(fit=name)
        style = {"color": COLOURS[k % 10], "ls": _STYLES[k % len(_STYLES)]}
        ax.plot(x, line, lw=1.4, label=literal(name), **style)
    ax.set(xlim=(0, 1), xlabel="PIT, most probable characters first", ylabel="ECDF less uniform")
    ax.legend(frameon=False, fontsize="small")
    sns.despine(ax=ax)
    return ax


def plot_by_position(summary: xr.Dataset, *, ax: Axes | None = None) -> Axes:
    """Log score by position in the context, with one standard error over sequences.

    Parameters
    ----------
    summary : Dataset (fit, position)
        ``by_position`` of `gptbayes.predict.Reliability`.
    ax : Axes, optional

    Returns
    -------
    Axes
        Characters that can be read are counted from one.
    """
    ax = plt.gca() if ax is None else ax
    x = summary["position"].values + 1
    _lines(ax, x, summary, "log_score", "log_score_se")
    ax.set_xticks(x)
    ax.set(xlabel="characters read", ylabel="log score, nats per character")
    ax.legend(frameon=False, fontsize="small")
    sns.despine(ax=ax)
    return ax


_STYLES = ("-", "--", "-.", ":")


def _lines(ax, x, summary, mean, error):
    n = summary.sizes["fit"]
    for k, name in enumerate(summary["fit"].values):
        one, at = summary.sel(fit=name), x + 0.3 * (k - (n - 1) / 2) / n
        style = {"color": COLOURS[k % 10], "marker": MARKERS[k % 10], "ms": 4, "lw": 1.2}
        ax.errorbar(at, one[mean], one[error], capsize=2, label=literal(name), **style)
