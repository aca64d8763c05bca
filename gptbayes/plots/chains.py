"""Figures of what draws and chains agree about."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
import xarray as xr
from matplotlib.axes import Axes
from scipy.cluster.hierarchy import dendrogram

from gptbayes.diagnostics.modes import Space
from gptbayes.plots.style import COLOURS, MARKERS, percent


def plot_r_hat(r_hats: dict[str, xr.DataArray], *, limit: float, ax: Axes | None = None) -> Axes:
    """R-hats of several kinds of quantity, one row each.

    Parameters
    ----------
    r_hats : dict of str to DataArray (scalar)
    limit : float
        Where a line says what is too large.
    ax : Axes, optional

    Returns
    -------
    Axes
    """
    ax = plt.gca() if ax is None else ax
    rng = np.random.default_rng(0)
    for row, values in enumerate(r_hats.values()):
        finite = values.values[np.isfinite(values.values)]
        jitter = rng.uniform(-0.3, 0.3, size=finite.size) if finite.size > 1 else np.zeros(1)
        ax.plot(finite, row + jitter, "o", ms=3, alpha=0.35, mew=0, color=COLOURS[row % 10])
        ax.plot(np.median(finite), row, "|", ms=22, mew=2, color="black")
    ax.axvline(limit, color="black", lw=1, ls="--")
    ax.text(limit, -0.55, f" {limit}", va="bottom", ha="left", fontsize="small")
    ax.set_yticks(range(len(r_hats)), [f"{name}\n({v.size})" for name, v in r_hats.items()])
    ax.set(ylim=(len(r_hats) - 0.4, -0.6), xlabel="R-hat (dot: one scalar, bar: median)")
    sns.despine(ax=ax)
    return ax


def plot_trace(draws: xr.DataArray, *, label: str, ax: Axes | None = None) -> Axes:
    """A scalar over the draws of each chain.

    Parameters
    ----------
    draws : DataArray (chain, draw)
    label : str
        What it is, with its unit.
    ax : Axes, optional

    Returns
    -------
    Axes
    """
    ax = plt.gca() if ax is None else ax
    for k, chain in enumerate(draws.values):
        ax.plot(chain, lw=0.7, alpha=0.85, color=COLOURS[k % 10], label=f"chain {k + 1}")
    ax.set(xlabel="draw", ylabel=label, xlim=(0, draws.sizes["draw"]))
    if draws.sizes["chain"] <= 8:
        ax.legend(ncols=4, frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    sns.despine(ax=ax)
    return ax


def plot_mixing(
    r_hats: dict[str, xr.DataArray],
    table: xr.Dataset,
    *,
    limit: float,
    ax: Axes | None = None,
) -> Axes:
    """R-hats of several kinds of quantity, with R* and the smallest ESS beside each.

    Parameters
    ----------
    r_hats : dict of str to DataArray (scalar)
    table : Dataset (quantity)
        As `gptbayes.diagnostics.convergence.mixing_table` returns it, of the same kinds.
    limit : float
        Where a line says what is too large.
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
    """How segments of chains join, nearest first; as many colours as chains.

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
    chain = space.distance["of_chain"].values
    start, stop = space.distance["start"].values, space.distance["stop"].values
    at = 5 + 10 * np.arange(len(drawn["leaves"]))
    for y, leaf in zip(at, drawn["leaves"], strict=True):
        ax.plot(0, y, MARKERS[chain[leaf] % 10], color=COLOURS[chain[leaf] % 10], clip_on=False)
    names = [f"chain {chain[i] + 1}, {start[i] + 1}–{stop[i]}" for i in drawn["leaves"]]
    ax.set_yticks(at, names, fontsize="small" if len(at) <= 20 else "xx-small")
    if np.isfinite(space.within):
        ax.axvline(space.within, color="black", lw=1, ls="--")
        ax.set_title(
            "dashed: typical distance within a chain and mode", fontsize="small", loc="right"
        )
    ax.set(xlabel=f"distance ({space.unit})", ylim=(10 * len(at), 0))
    ax.set_xlim(left=0)
    sns.despine(ax=ax, left=True)
    ax.tick_params(axis="y", length=0, pad=8)
    return ax


def plot_mode_map(
    space: Space, *, label: xr.DataArray | None = None, ax: Axes | None = None
) -> Axes:
    """Segments of chains on a plane, near where they predict alike or have like weights.

    Parameters
    ----------
    space : gptbayes.diagnostics.modes.Space
    label : DataArray of int (segment), optional
        The mode of each segment, -1 where it is in none; by default that of the space.
    ax : Axes, optional

    Returns
    -------
    Axes
    """
    ax = plt.gca() if ax is None else ax
    if label is None and space.groups:
        label = space.groups.label
    n = space.map.sizes["segment"]
    label = np.zeros(n, int) if label is None else label.values
    points, chain = space.map.values, space.map["of_chain"].values
    for c in np.unique(chain):
        path = points[chain == c]
        ax.plot(*path.T, color="0.7", lw=0.7, zorder=1)
        last = f"{c + 1}"
        ax.annotate(last, path[-1], xytext=(4, 4), textcoords="offset points", fontsize="small")
    for k in np.unique(label):
        here = points[label == k]
        name = f"mode {k + 1}" if k >= 0 else "in no mode"
        colour = COLOURS[k % 10] if k >= 0 else "0.5"
        style = {"ls": "none", "ms": 6, "label": name}
        ax.plot(*here.T, MARKERS[k % 10] if k >= 0 else "x", color=colour, **style)
    if len(np.unique(label)) > 1:
        ax.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=4)
    ax.set_aspect("equal", adjustable="datalim")
    shown = f"{percent(space.explained)} % of squared distances shown"
    ax.set(xlabel=f"first axis ({space.unit})\n{shown}", ylabel="second axis")
    sns.despine(ax=ax)
    return ax


def plot_path(found: xr.Dataset, *, alignment: str = "aligned", ax: Axes | None = None) -> Axes:
    """The log posterior along paths between chains, one colour and line style for each kind.

    Parameters
    ----------
    found : Dataset (alignment, path, pair, point)
        As `gptbayes.diagnostics.mode_connectivity.connect_chains` returns it.
    alignment : {"aligned", "as drawn"}
    ax : Axes, optional

    Returns
    -------
    Axes
        Thick lines are medians over pairs of different chains, thin ones the pairs; dotted is the
        median arc between draws of one chain. The band is what draws do without going anywhere.
    """
    ax = plt.gca() if ax is None else ax
    level, sd, t = found.attrs["level"], found.attrs["sd"], found["t"].values
    if np.isfinite(sd):
        label = "draws of one chain ± 2 sd"
        ax.axhspan(level - 2 * sd, level + 2 * sd, color="0.92", lw=0, label=label)
    values = found["log_posterior"].sel(alignment=alignment)
    between = ~found["same_chain"].values
    for k, path in enumerate(found["path"].values):
        style = {"color": COLOURS[k], "ls": ("-", "--", "-.")[k]}
        lines = values.sel(path=path).values[between]
        ax.plot(t, lines.T, lw=0.5, alpha=0.4, **style)
        ax.plot(t, np.median(lines, axis=0), lw=2, label=_PATHS[str(path)], **style)
    if "arc" in found["path"] and not between.all():
        same = np.median(values.sel(path="arc").values[~between], axis=0)
        ax.plot(t, same, color="black", ls=":", lw=1.5, label="arc between draws of one chain")
    words = {"aligned": "after alignment", "as drawn": "as drawn"}[alignment]
    ends = {"draws": "a draw", "means": "the mean"}[found.attrs["ends"]]
    ax.set(xlim=(0, 1), xlabel=f"from {ends} of one chain to {ends} of another, {words}")
    ax.set(ylabel="log posterior, nats")
    ax.legend(frameon=False, fontsize="x-small")
    sns.despine(ax=ax)
    return ax


_PATHS = {"straight": "straight path", "arc": "arc", "curve": "optimised curve"}
