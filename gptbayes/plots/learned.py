"""Figures of what the text taught, and of ranks against the truth."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
import xarray as xr
from matplotlib.axes import Axes

from gptbayes.plots.style import COLOURS, intervals


def plot_contraction(local: xr.Dataset, *, ax: Axes | None = None) -> Axes:
    """What the text taught about each kind of parameter, as shares of its weights.

    Parameters
    ----------
    local : Dataset (block)
        As `gptbayes.diagnostics.contraction.local_contraction` returns it.
    ax : Axes, optional

    Returns
    -------
    Axes
        One bar for each block, in three parts: learned from the text, left to the prior, and
        redundant, on which no prediction depends.
    """
    ax = plt.gca() if ax is None else ax
    y, n = np.arange(local.sizes["block"]), local["n"].values
    learned, gauge = local["learned"].values / n, local["gauge"].values / n
    parts = (
        ("learned from the text", learned, {"color": COLOURS[0]}),
        ("left to the prior", 1 - learned - gauge, {"color": "0.85"}),
        ("redundant", gauge, {"color": "white", "hatch": "////", "edgecolor": "0.6", "lw": 0}),
    )
    left = np.zeros(len(y))
    for label, width, style in parts:
        ax.barh(y, np.maximum(width, 0), left=left, label=label, **style)
        left = left + width
    names = [f"{block} ({size})" for block, size in zip(local["block"].values, n, strict=True)]
    ax.set_yticks(y, names)
    ax.set(ylim=(len(y) - 0.4, -0.6), xlim=(0, 1), xlabel="share of the weights")
    ax.legend(frameon=False, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    sns.despine(ax=ax)
    return ax


def plot_beside_prior(table: xr.Dataset, *, label: str, ax: Axes | None = None) -> Axes:
    """Sorted summaries of heads or hidden units, posterior and prior, with 90 % intervals.

    Parameters
    ----------
    table : Dataset (layer, rank)
        As `gptbayes.diagnostics.contraction.compare_with_prior` returns it.
    label : str
        What is summarised.
    ax : Axes, optional

    Returns
    -------
    Axes
        Open circles do not differ from the prior.
    """
    ax = plt.gca() if ax is None else ax
    n_layer, n_rank = table.sizes["layer"], table.sizes["rank"]
    flat = table.stack(row=("layer", "rank"))
    y = np.concatenate([np.arange(n_rank) + k * (n_rank + 1) for k in range(n_layer)])
    prior = xr.Dataset({name: flat[f"prior_{name}"] for name in ("mean", "lower", "upper")})
    intervals(ax, y + 0.25, prior, "0.6", "prior", marker="s")
    intervals(ax, y, flat, COLOURS[0], "posterior", marker="o")
    same = ~flat["differs"].values
    ax.plot(flat["mean"].values[same], y[same], "o", ms=5, mfc="white", color=COLOURS[0])
    middle = [k * (n_rank + 1) + (n_rank - 1) / 2 for k in range(n_layer)]
    names = [f"layer {k + 1}, " if n_layer > 1 else "" for k in range(n_layer)]
    ax.set_yticks(middle, [f"{name}largest\nto smallest" for name in names])
    ax.set(ylim=(y.max() + 0.8, -0.8), xlabel=label)
    ax.legend(frameon=False)
    sns.despine(ax=ax)
    return ax


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
        style = {"color": COLOURS[n_outside % 10], "lw": 1.4, "label": str(name)}
        ax.step(x, y, where="post", **(style if outside else {"color": "0.45", "lw": 0.6}))
        n_outside += outside
    if n_outside:
        ax.legend(frameon=False, fontsize="x-small", loc="best")
    ax.set(xlim=(0, 1), xlabel="rank of the true value", ylabel="ECDF less uniform")
    sns.despine(ax=ax)
    return ax
