"""Figures that compare stages and methods."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
import xarray as xr
from matplotlib.axes import Axes

from gptbayes.plots.style import COLORS, literal, series_style


def plot_ladder(
    values: xr.Dataset, *, baselines: dict[str, float] | None = None, ax: Axes | None = None
) -> Axes:
    """Plot a value by stage, one line for each method, with one standard error.

    Parameters
    ----------
    values : Dataset (fit, stage)
        ``mean`` and ``se``.
    baselines : dict of str to float, optional
        Values of horizontal lines, by name.
    ax : Axes, optional

    Returns
    -------
    Axes
    """
    ax = plt.gca() if ax is None else ax
    x = np.arange(values.sizes["stage"])
    for k, (name, marker) in enumerate(zip(values["fit"].values, "os^Dv", strict=False)):
        one = values.sel(fit=name)
        style = {"color": COLORS[k], "marker": marker, "ms": 4, "lw": 1.2, "capsize": 2}
        ax.errorbar(x + 0.12 * (k - 1), one["mean"], one["se"], label=literal(name), **style)
    for ls, (name, value) in zip(("--", ":", "-."), (baselines or {}).items(), strict=False):
        ax.axhline(value, color="0.4", ls=ls, lw=1, label=literal(name))
    ax.set_xticks(x, [str(stage) for stage in values["stage"].values])
    ax.set(xlabel="stage")
    ax.legend(frameon=False, fontsize="small")
    sns.despine(ax=ax)
    return ax


def plot_gain(table: xr.Dataset, *, ax: Axes | None = None) -> Axes:
    """Plot differences of held-out density from a reference by size of the training text.

    Parameters
    ----------
    table : Dataset (fit, size)
        ``difference`` from the reference and its paired standard error ``difference_se``, in nats
        per character; ``unreliable``, bool. ``attrs`` has the name of the ``reference``.
    ax : Axes, optional

    Returns
    -------
    Axes
        Bars are two standard errors. Open points are unreliable.
    """
    ax = plt.gca() if ax is None else ax
    x = np.arange(table.sizes["size"])
    n = table.sizes["fit"]
    ax.axhline(0, color="0.4", lw=1, ls="--", label=literal(table.attrs["reference"]))
    for k, name in enumerate(table["fit"].values):
        one, at = table.sel(fit=name), x + 0.5 * (k - (n - 1) / 2) / n
        y, unreliable = one["difference"].values, one["unreliable"].values
        style = {**series_style(k), "ms": 5}
        ax.errorbar(
            at, y, 2 * one["difference_se"], lw=1, capsize=2, label=literal(name), zorder=2, **style
        )
        ax.plot(at[unreliable], y[unreliable], ls="none", mfc="white", zorder=3, **style)
    ax.set_xticks(x, [str(size) for size in table["size"].values])
    ax.set(
        xlabel="training sequences",
        ylabel=f"held-out log density minus {literal(table.attrs['reference'])}\n"
        "(nats per character)",
    )
    ax.legend(
        frameon=False, fontsize="small", loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2
    )
    sns.despine(ax=ax)
    return ax
