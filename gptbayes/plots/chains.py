"""Figures of mixing, modes, paths between chains, and contraction."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
import xarray as xr
from matplotlib.axes import Axes
from scipy.cluster.hierarchy import dendrogram

from gptbayes.plots.diagnostics import plot_r_hat
from gptbayes.plots.style import COLORS, intervals, percent, series_style

if TYPE_CHECKING:
    from gptbayes.diagnostics.modes import Space


def plot_mixing(
    r_hats: dict[str, xr.DataArray],
    table: xr.Dataset,
    *,
    limit: float,
    ax: Axes | None = None,
) -> Axes:
    """Plot R-hats of several kinds of quantities, with R* and the smallest ESS.

    Parameters
    ----------
    r_hats : dict of str to DataArray (scalar)
    table : Dataset (quantity)
        As of `gptbayes.diagnostics.convergence.mixing_table`, for the same kinds.
    limit : float
        Limit of R-hat, shown by a dashed line.
    ax : Axes, optional

    Returns
    -------
    Axes
    """
    ax = plot_r_hat(r_hats, limit=limit, ax=ax)
    for row, name in enumerate(r_hats):
        found = table.sel(quantity=name)
        words = f"smallest ESS {float(found['ess_bulk_min']):.0f}"
        if np.isfinite(found["r_star"]):
            words += f"\nR* {float(found['r_star']):.1f} of {int(found['r_star_largest'])}"
        ax.annotate(
            words,
            (1.02, row),
            xycoords=ax.get_yaxis_transform(),
            va="center",
            fontsize="small",
            annotation_clip=False,
        )
    return ax


def plot_dendrogram(space: Space, *, ax: Axes | None = None) -> Axes:
    """Plot the average linkage dendrogram of segments of chains, colored by chain.

    Parameters
    ----------
    space : gptbayes.diagnostics.modes.Space
    ax : Axes, optional

    Returns
    -------
    Axes
    """
    ax = plt.gca() if ax is None else ax
    drawn = dendrogram(space.tree, no_plot=True)
    for x, y in zip(drawn["icoord"], drawn["dcoord"], strict=True):
        ax.plot(y, x, color="0.35", lw=1)
    chain = space.distance["chain_index"].values
    start, stop = space.distance["start"].values, space.distance["stop"].values
    at = 5 + 10 * np.arange(len(drawn["leaves"]))
    for y, leaf in zip(at, drawn["leaves"], strict=True):
        ax.plot(0, y, ls="none", clip_on=False, **series_style(chain[leaf]))
    names = [f"chain {chain[i] + 1}, {start[i] + 1}–{stop[i]}" for i in drawn["leaves"]]
    ax.set_yticks(at, names, fontsize="small" if len(at) <= 20 else "xx-small")
    if np.isfinite(space.within):
        ax.axvline(space.within, color="black", lw=1, ls="--")
        title = "dashed: typical distance within a chain and mode"
        ax.set_title(title, fontsize="small", loc="right")
    ax.set(xlabel=f"distance ({space.unit})", ylim=(10 * len(at), 0))
    ax.set_xlim(left=0)
    sns.despine(ax=ax, left=True)
    ax.tick_params(axis="y", length=0, pad=8)
    return ax


def plot_mode_map(
    space: Space, *, label: xr.DataArray | None = None, ax: Axes | None = None
) -> Axes:
    """Plot segments of chains in the plane by multidimensional scaling of their distances.

    Parameters
    ----------
    space : gptbayes.diagnostics.modes.Space
    label : DataArray of int (segment), optional
        The mode of each segment, -1 for segments in no mode; by default that of the space.
    ax : Axes, optional

    Returns
    -------
    Axes
        Markers and colors are modes. Lines join the segments of a chain in order; its number is at
        the last segment.
    """
    ax = plt.gca() if ax is None else ax
    if label is None and space.groups:
        label = space.groups.label
    n = space.map.sizes["segment"]
    mode = np.zeros(n, int) if label is None else label.values
    points, chain = space.map.values, space.map["chain_index"].values
    for c in np.unique(chain):
        path = points[chain == c]
        ax.plot(*path.T, color="0.7", lw=0.7, zorder=1)
        last = f"{c + 1}"
        ax.annotate(last, path[-1], xytext=(4, 4), textcoords="offset points", fontsize="small")
    for k in np.unique(mode):
        here = points[mode == k]
        name = f"mode {k + 1}" if k >= 0 else "in no mode"
        style = series_style(k) if k >= 0 else {"color": "0.5", "marker": "x"}
        ax.plot(*here.T, **style, ls="none", ms=6, label=name)
    if len(np.unique(mode)) > 1:
        ax.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=4)
    ax.set_aspect("equal", adjustable="datalim")
    shown = f"{percent(space.explained)} % of squared distances explained"
    ax.set(xlabel=f"first axis ({space.unit})\n{shown}", ylabel="second axis")
    sns.despine(ax=ax)
    return ax


def plot_path(found: xr.Dataset, *, alignment: str = "aligned", ax: Axes | None = None) -> Axes:
    """Plot the log posterior along paths between chains.

    Parameters
    ----------
    found : Dataset (alignment, path, pair, point)
        As of `gptbayes.diagnostics.mode_connectivity.connect_chains`.
    alignment : {"aligned", "as drawn"}
    ax : Axes, optional

    Returns
    -------
    Axes
        Colors and line styles are kinds of paths. Thick lines are medians over pairs of different
        chains, and thin lines the pairs. The dotted line is the median arc between draws of one
        chain. The band is the mean ± 2 sd of the log posterior of draws of one chain.
    """
    ax = plt.gca() if ax is None else ax
    level, sd, t = found.attrs["level"], found.attrs["sd"], found["t"].values
    if np.isfinite(sd):
        label = "draws of one chain ± 2 sd"
        ax.axhspan(level - 2 * sd, level + 2 * sd, color="0.92", lw=0, label=label)
    values = found["log_posterior"].sel(alignment=alignment)
    between = ~found["same_chain"].values
    for k, path in enumerate(found["path"].values):
        style = {"color": COLORS[k], "ls": ("-", "--", "-.")[k]}
        lines = values.sel(path=path).values[between]
        ax.plot(t, lines.T, lw=0.5, alpha=0.4, **style)
        ax.plot(t, np.median(lines, axis=0), lw=2, label=_PATHS[str(path)], **style)
    if "arc" in found["path"] and not between.all():
        same = np.median(values.sel(path="arc").values[~between], axis=0)
        ax.plot(t, same, color="black", ls=":", lw=1.5, label="arc between draws of one chain")
    words = {"aligned": "after alignment", "as drawn": "as drawn"}[alignment]
    ends = {"draws": "a draw", "means": "the mean"}[found.attrs["ends"]]
    ax.set(xlim=(0, 1), xlabel=f"from {ends} of one chain to {ends} of another, {words}")
    ax.set(ylabel="log posterior (nats)")
    ax.legend(frameon=False, fontsize="x-small")
    sns.despine(ax=ax)
    return ax


def plot_contraction(local: xr.Dataset, *, ax: Axes | None = None) -> Axes:
    """Plot posterior contraction by parameter block, as fractions of the weights.

    Parameters
    ----------
    local : Dataset (block)
        As of `gptbayes.diagnostics.contraction.local_contraction`.
    ax : Axes, optional

    Returns
    -------
    Axes
        One bar for each block, in three parts: learned from the text, determined by the prior,
        and redundant (predictions do not depend on it).
    """
    ax = plt.gca() if ax is None else ax
    y, n = np.arange(local.sizes["block"]), local["n"].values
    learned, gauge = local["learned"].values / n, local["gauge"].values / n
    parts = (
        ("learned from the text", learned, {"color": COLORS[0]}),
        ("determined by the prior", 1 - learned - gauge, {"color": "0.85"}),
        ("redundant", gauge, {"color": "white", "hatch": "////", "edgecolor": "0.6", "lw": 0}),
    )
    left = np.zeros(len(y))
    for label, width, style in parts:
        ax.barh(y, np.maximum(width, 0), left=left, label=label, **style)
        left = left + width
    names = [f"{block} ({size})" for block, size in zip(local["block"].values, n, strict=True)]
    ax.set_yticks(y, names)
    ax.set(ylim=(len(y) - 0.4, -0.6), xlim=(0, 1), xlabel="fraction of the weights")
    ax.legend(frameon=False, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    sns.despine(ax=ax)
    return ax


def plot_posterior_and_prior(table: xr.Dataset, *, label: str, ax: Axes | None = None) -> Axes:
    """Plot sorted summaries of heads or hidden units with intervals, posterior and prior.

    Parameters
    ----------
    table : Dataset (layer, rank)
        As of `gptbayes.diagnostics.contraction.compare_with_prior`.
    label : str
        The axis label.
    ax : Axes, optional

    Returns
    -------
    Axes
        For open circles, posterior and prior do not differ significantly.
    """
    ax = plt.gca() if ax is None else ax
    n_layer, n_rank = table.sizes["layer"], table.sizes["rank"]
    flat = table.stack(row=("layer", "rank"))
    y = np.concatenate([np.arange(n_rank) + k * (n_rank + 1) for k in range(n_layer)])
    prior = xr.Dataset({name: flat[f"prior_{name}"] for name in ("mean", "lower", "upper")})
    intervals(ax, y + 0.25, prior, "0.6", "prior", marker="s")
    intervals(ax, y, flat, COLORS[0], "posterior", marker="o")
    same = ~flat["differs"].values
    ax.plot(flat["mean"].values[same], y[same], "o", ms=5, mfc="white", color=COLORS[0])
    middle = [k * (n_rank + 1) + (n_rank - 1) / 2 for k in range(n_layer)]
    names = [f"layer {k + 1}, " if n_layer > 1 else "" for k in range(n_layer)]
    ax.set_yticks(middle, [f"{name}largest\nto smallest" for name in names])
    ax.set(ylim=(y.max() + 0.8, -0.8), xlabel=label)
    ax.legend(frameon=False)
    sns.despine(ax=ax)
    return ax


_PATHS = {"straight": "straight path", "arc": "arc", "curve": "optimized curve"}
