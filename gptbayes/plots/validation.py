"""Figures of validation: ranks in simulation-based calibration, Pareto k against exact values."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
import xarray as xr
from matplotlib.axes import Axes

from gptbayes.plots.style import COLOURS, literal


def plot_rank_ecdf(summary: xr.Dataset, *, ax: Axes | None = None) -> Axes:
    """How far the ECDF of ranks is from that of uniform ones, one line for each quantity.

    Parameters
    ----------
    summary : Dataset (quantity, rank)
        As `gptbayes.stats.uniformity.rank_ecdf` returns it.
    ax : Axes, optional

    Returns
    -------
    Axes
        Lines that leave the band anywhere are drawn in colour and named.
    """
    ax = plt.gca() if ax is None else ax
    x = np.concatenate([[0], summary["rank"].values, [1]])
    lower, upper = (np.pad(summary[name].values, 1) for name in ("lower", "upper"))
    ax.fill_between(x, lower, upper, step="post", color="0.9", lw=0)
    n_outside = 0
    for name, line in zip(summary["quantity"].values, summary["difference"].values, strict=True):
        y = np.pad(line, 1)
        outside = bool(((y < lower - 1e-9) | (y > upper + 1e-9)).any())
        style = {"color": COLOURS[n_outside % 10], "lw": 1.4, "label": literal(name)}
        ax.step(x, y, where="post", **(style if outside else {"color": "0.45", "lw": 0.6}))
        n_outside += outside
    if n_outside:
        ax.legend(frameon=False, fontsize="x-small", loc="best")
    ax.set(xlim=(0, 1), xlabel="rank of the true value", ylabel="ECDF less uniform")
    sns.despine(ax=ax)
    return ax


def plot_pareto_k(summary: xr.Dataset, *, limit: float, ax: Axes | None = None) -> Axes:
    """Estimated Pareto k against the exact one, with two standard errors around the diagonal.

    Parameters
    ----------
    summary : Dataset (unit)
        ``exact``, ``estimated``, and ``se``, the standard error that theory gives an estimate.
    limit : float
        Where lines say what is too large.
    ax : Axes, optional

    Returns
    -------
    Axes
    """
    ax = plt.gca() if ax is None else ax
    ordered = summary.sortby("exact")
    k, se = ordered["exact"], ordered["se"]
    ax.fill_between(k, k - 2 * se, k + 2 * se, color="0.88", label="exact ± 2 standard errors")
    ax.plot(k, k, color="0.4", lw=1)
    ax.plot(k, ordered["estimated"], "o", ms=4, alpha=0.6, mew=0, color=COLOURS[0])
    for line in (ax.axhline, ax.axvline):
        line(limit, color="black", lw=1, ls="--")
    ax.legend(frameon=False, loc="upper left")
    ax.set(xlabel="exact Pareto k", ylabel="estimated Pareto k")
    sns.despine(ax=ax)
    return ax
