"""Figures of validation: simulation-based calibration, and Pareto k against exact values."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
import xarray as xr
from matplotlib.axes import Axes

from gptbayes.plots.style import COLORS, literal


def plot_rank_ecdf(summary: xr.Dataset, *, ax: Axes | None = None) -> Axes:
    """Plot the ECDF of ranks minus that of uniform ranks, one line for each quantity.

    Parameters
    ----------
    summary : Dataset (quantity, rank)
        As of `gptbayes.stats.uniformity.rank_ecdf`.
    ax : Axes, optional

    Returns
    -------
    Axes
        Lines that leave the simultaneous band are colored and labeled.
    """
    ax = plt.gca() if ax is None else ax
    x = np.concatenate([[0], summary["rank"].values, [1]])
    lower, upper = (np.pad(summary[name].values, 1) for name in ("lower", "upper"))
    ax.fill_between(x, lower, upper, step="post", color="0.9", lw=0)
    n_outside = 0
    for name, line in zip(summary["quantity"].values, summary["difference"].values, strict=True):
        y = np.pad(line, 1)
        outside = bool(((y < lower - 1e-9) | (y > upper + 1e-9)).any())
        style = {"color": COLORS[n_outside % 10], "lw": 1.4, "label": literal(name)}
        ax.step(x, y, where="post", **(style if outside else {"color": "0.45", "lw": 0.6}))
        n_outside += outside
    if n_outside:
        ax.legend(frameon=False, fontsize="x-small", loc="best")
    ax.set(xlim=(0, 1), xlabel="rank of the true value", ylabel="ECDF minus uniform")
    sns.despine(ax=ax)
    return ax


def plot_pareto_k(summary: xr.Dataset, *, limit: float, ax: Axes | None = None) -> Axes:
    """Plot estimated against exact Pareto k.

    Parameters
    ----------
    summary : Dataset (unit)
        ``exact``, ``estimated``, and ``se``, the theoretical standard error of an estimate.
    limit : float
        Limit of Pareto k, shown by dashed lines.
    ax : Axes, optional

    Returns
    -------
    Axes
        The band is two standard errors around the diagonal.
    """
    ax = plt.gca() if ax is None else ax
    ordered = summary.sortby("exact")
    k, se = ordered["exact"], ordered["se"]
    ax.fill_between(k, k - 2 * se, k + 2 * se, color="0.88", label="exact ± 2 standard errors")
    ax.plot(k, k, color="0.4", lw=1)
    ax.plot(k, ordered["estimated"], "o", ms=4, alpha=0.6, mew=0, color=COLORS[0])
    for line in (ax.axhline, ax.axvline):
        line(limit, color="black", lw=1, ls="--")
    ax.legend(frameon=False, loc="upper left")
    ax.set(xlabel="exact Pareto k", ylabel="estimated Pareto k")
    sns.despine(ax=ax)
    return ax
