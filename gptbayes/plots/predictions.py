"""Figures of predictions."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
import xarray as xr
from matplotlib.axes import Axes

from gptbayes.plots.style import COLORS, drawable, intervals, literal


def plot_next_character(
    summary: xr.Dataset,
    *,
    prior: xr.Dataset | None = None,
    n_characters: int = 12,
    ax: Axes | None = None,
) -> Axes:
    """Plot probabilities of the next character: mean and interval, posterior and prior.

    Parameters
    ----------
    summary, prior : Dataset (token)
        As of `gptbayes.predict.next_character`.
    n_characters : int
        Number of characters, the most probable first.
    ax : Axes, optional

    Returns
    -------
    Axes
    """
    ax = plt.gca() if ax is None else ax
    shown = summary.sortby("mean", ascending=False).isel(token=slice(n_characters))
    y = np.arange(shown.sizes["token"])
    if prior is not None:
        intervals(ax, y + 0.4, prior.sel(token=shown["token"]), "0.6", "prior", marker="s", ms=4)
    intervals(ax, y, shown, COLORS[0], "posterior", marker="o")
    ax.set_yticks(y, [drawable(str(c)) for c in shown["token"].values])
    ax.set(ylim=(len(y) - 0.2, -0.6), xlim=(0, 1), xlabel="probability")
    if prior is not None:
        ax.legend(frameon=False, loc="lower right")
    sns.despine(ax=ax)
    return ax


def plot_held_out(
    table: xr.Dataset, *, baselines: dict[str, float] | None = None, ax: Axes | None = None
) -> Axes:
    """Plot the held-out log predictive density per character of several fits.

    Parameters
    ----------
    table : Dataset (fit)
        As in `gptbayes.predict.Comparison`.
    baselines : dict of str to float, optional
        Values of vertical lines in nats per character, by name.
    ax : Axes, optional

    Returns
    -------
    Axes
        Bars are two standard errors over sequences.
    """
    ax = plt.gca() if ax is None else ax
    y = np.arange(table.sizes["fit"])
    for style, (name, value) in zip(("--", ":", "-."), (baselines or {}).items(), strict=False):
        ax.axvline(value, color="0.4", ls=style, lw=1, label=literal(name))
    ax.errorbar(
        table["per_character"],
        y,
        xerr=2 * table["per_character_se"],
        fmt="o",
        ms=5,
        capsize=3,
        color=COLORS[0],
    )
    ax.set_yticks(y, [literal(name) for name in table["fit"].values])
    ax.set(ylim=(len(y) - 0.5, -0.5), xlabel="held-out log density (nats per character)")
    if baselines:
        ax.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)
    sns.despine(ax=ax)
    return ax
