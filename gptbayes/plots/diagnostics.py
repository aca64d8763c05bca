"""Figures of the section on diagnostics: traces and R-hat."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
import xarray as xr
from matplotlib.axes import Axes

from gptbayes.plots.style import COLORS, literal


def plot_r_hat(r_hats: dict[str, xr.DataArray], *, limit: float, ax: Axes | None = None) -> Axes:
    """Plot the R-hats of several kinds of quantities.

    Parameters
    ----------
    r_hats : dict of str to DataArray (scalar)
    limit : float
        Limit of R-hat, shown by a dashed line.
    ax : Axes, optional

    Returns
    -------
    Axes
        Dots are scalars, vertical bars medians of several. The number of scalars is in parentheses.
    """
    ax = plt.gca() if ax is None else ax
    rng = np.random.default_rng(0)
    for row, values in enumerate(r_hats.values()):
        finite = values.values[np.isfinite(values.values)]
        several = finite.size > 1
        alpha = 0.35 if several else 1
        jitter = rng.uniform(-0.3, 0.3, size=finite.size) if several else np.zeros(finite.size)
        ax.plot(finite, row + jitter, "o", ms=3, alpha=alpha, mew=0, color=COLORS[row % 10])
        if several:
            ax.plot(np.median(finite), row, "|", ms=22, mew=2, color="black")
    ax.axvline(limit, color="black", lw=1, ls="--")
    ax.text(limit, -0.55, f" {limit}", va="bottom", ha="left", fontsize="small")
    ax.set_yticks(
        range(len(r_hats)), [f"{literal(name)}\n({v.size})" for name, v in r_hats.items()]
    )
    ax.set(ylim=(len(r_hats) - 0.4, -0.6), xlabel="R-hat (dot: one scalar, bar: median)")
    sns.despine(ax=ax)
    return ax


def plot_trace(draws: xr.DataArray, *, label: str, ax: Axes | None = None) -> Axes:
    """Plot the trace of a scalar, one line for each chain.

    Parameters
    ----------
    draws : DataArray (chain, draw)
    label : str
        Name of the scalar, with its unit.
    ax : Axes, optional

    Returns
    -------
    Axes
    """
    ax = plt.gca() if ax is None else ax
    for k, chain in enumerate(draws.values):
        ax.plot(chain, lw=0.7, alpha=0.85, color=COLORS[k % 10], label=f"chain {k + 1}")
    ax.set(xlabel="draw", ylabel=label, xlim=(0, draws.sizes["draw"]))
    if draws.sizes["chain"] <= 8:
        ax.legend(ncols=4, frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    sns.despine(ax=ax)
    return ax
