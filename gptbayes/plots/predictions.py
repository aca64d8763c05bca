"""Figures of what a fit predicts."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
import xarray as xr
from matplotlib.axes import Axes

from gptbayes.plots.style import COLOURS, drawable, intervals


def plot_next_character(
    summary: xr.Dataset,
    *,
    prior: xr.Dataset | None = None,
    n_characters: int = 12,
    ax: Axes | None = None,
) -> Axes:
    """Probabilities of the next character: posterior mean and interval, prior beside it.

    Parameters
    ----------
    summary, prior : Dataset (token)
        As `gptbayes.predict.next_character` returns it.
    n_characters : int
        How many of the most probable characters to show.
    ax : Axes, optional

    Returns
    -------
    Axes
    """
    ax = plt.gca() if ax is None else ax
    shown = summary.sortby("mean", ascending=False).isel(token=slice(n_characters))
    y = np.arange(shown.sizes["token"])
    if prior is not None:
        intervals(ax, y + 0.22, prior.sel(token=shown["token"]), "0.6", "prior", marker="s")
    intervals(ax, y, shown, COLOURS[0], "posterior", marker="o")
    ax.set_yticks(y, [drawable(str(c)) for c in shown["token"].values])
    ax.set(ylim=(len(y) - 0.4, -0.6), xlim=(0, 1), xlabel="probability")
    if prior is not None:
        ax.legend(frameon=False, loc="lower right")
    sns.despine(ax=ax)
    return ax


def plot_held_out(
    table: xr.Dataset, *, baselines: dict[str, float] | None = None, ax: Axes | None = None
) -> Axes:
    """Held-out log predictive density per character of several fits, with two standard errors.

    Parameters
    ----------
    table : Dataset (fit)
        As in `gptbayes.predict.Comparison`.
    baselines : dict of str to float, optional
        Vertical lines, for example of a uniform guess, in nats per character.
    ax : Axes, optional

    Returns
    -------
    Axes
    """
    ax = plt.gca() if ax is None else ax
    y = np.arange(table.sizes["fit"])
    for style, (name, value) in zip(("--", ":", "-."), (baselines or {}).items(), strict=False):
        ax.axvline(value, color="0.4", ls=style, lw=1, label=name)
    ax.errorbar(
        table["per_character"],
        y,
        xerr=2 * table["per_character_se"],
        fmt="o",
        ms=5,
        capsize=3,
        color=COLOURS[0],
    )
    ax.set_yticks(y, [str(name) for name in table["fit"].values])
    ax.set(ylim=(len(y) - 0.5, -0.5), xlabel="held-out log density, nats per character")
    if baselines:
        ax.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)
    sns.despine(ax=ax)
    return ax
