"""Figures of calibration and of scores by position."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
import xarray as xr
from matplotlib.axes import Axes

from gptbayes.plots.style import COLORS, literal, percent, series_style


def plot_reliability(summary: xr.Dataset, *, ax: Axes | None = None) -> Axes:
    """Plot a reliability curve with its simultaneous band.

    Parameters
    ----------
    summary : Dataset (bin)
        One fit of ``curve`` in `gptbayes.predict.Reliability`.
    ax : Axes, optional

    Returns
    -------
    Axes
        Filled points are outside the band. Bars at the bottom are the fraction of total
        probability in each bin; a fifth of the height of the axes is 1.
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
    ax.plot(x, seen["observed"], color=COLORS[0], lw=1.2)
    for inside, fill, words in ((True, "white", "inside"), (False, COLORS[0], "outside")):
        chosen = seen["inside"].values == inside
        style = {"mfc": fill, "mec": COLORS[0], "color": COLORS[0], "ms": 5, "ls": "none"}
        style["clip_on"] = False
        if chosen.any():
            ax.plot(x[chosen], seen["observed"].values[chosen], "o", label=words, **style)
    ax.set(xlim=(0, 1), ylim=(0, 1), xlabel="predicted probability", ylabel="observed fraction")
    ax.legend(frameon=False, loc="upper left", fontsize="small")
    sns.despine(ax=ax)
    return ax


def plot_pit(summary: xr.Dataset, *, ax: Axes | None = None) -> Axes:
    """Plot the ECDF of the PIT minus that of the uniform distribution, one line for each fit.

    Parameters
    ----------
    summary : Dataset (fit, value)
        ``pit`` of `gptbayes.predict.Reliability`.
    ax : Axes, optional

    Returns
    -------
    Axes
        Lines below the band are those of over-confident forecasts.
    """
    ax = plt.gca() if ax is None else ax
    one, x = summary.isel(fit=0), summary["value"].values
    label = f"{percent(summary.attrs['prob'])} % of calibrated fits" if summary.attrs else None
    ax.fill_between(x, one["lower"], one["upper"], color="0.9", lw=0, label=label)
    ax.axhline(0, color="0.4", lw=1, ls="--")
    for k, name in enumerate(summary["fit"].values):
        line = summary["difference"].sel(fit=name)
        style = {"color": COLORS[k % 10], "ls": _STYLES[k % len(_STYLES)]}
        ax.plot(x, line, lw=1.4, label=literal(name), **style)
    ax.set(xlim=(0, 1), xlabel="PIT, most probable characters first", ylabel="ECDF minus uniform")
    ax.legend(frameon=False, fontsize="small")
    sns.despine(ax=ax)
    return ax


def plot_by_position(summary: xr.Dataset, *, ax: Axes | None = None) -> Axes:
    """Plot the log score by length of the context, with one standard error over sequences.

    Parameters
    ----------
    summary : Dataset (fit, position)
        ``by_position`` of `gptbayes.predict.Reliability`.
    ax : Axes, optional

    Returns
    -------
    Axes
        The length of the context is counted from one.
    """
    ax = plt.gca() if ax is None else ax
    x = summary["position"].values + 1
    _lines(ax, x, summary, "log_score", "log_score_se")
    ax.set_xticks(x)
    ax.set(xlabel="length of context (characters)", ylabel="log score (nats per character)")
    ax.legend(frameon=False, fontsize="small")
    sns.despine(ax=ax)
    return ax


_STYLES = ("-", "--", "-.", ":")


def _lines(ax, x, summary, mean, error):
    n = summary.sizes["fit"]
    for k, name in enumerate(summary["fit"].values):
        one, at = summary.sel(fit=name), x + 0.3 * (k - (n - 1) / 2) / n
        style = {**series_style(k), "ms": 4, "lw": 1.2}
        ax.errorbar(at, one[mean], one[error], capsize=2, label=literal(name), **style)
