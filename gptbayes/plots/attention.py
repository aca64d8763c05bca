"""Figures of where a fit looks."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
import xarray as xr
from matplotlib.axes import Axes

from gptbayes.plots.style import drawable, percent


def plot_attention(summary: xr.Dataset, *, text: str, ax: Axes | None = None) -> Axes:
    """Mean attention weights of one head at one context, each with its interval in figures.

    Parameters
    ----------
    summary : Dataset (query_position, key_position)
        ``mean``, ``lower`` and ``upper``.
    text : str
        The context.
    ax : Axes, optional

    Returns
    -------
    Axes
    """
    ax = plt.gca() if ax is None else ax
    n = len(text)
    future = np.triu(np.ones((n, n), dtype=bool), k=1)
    mean = summary["mean"].values
    sns.heatmap(
        np.where(future, np.nan, mean),
        vmin=0,
        vmax=1,
        cmap="cividis",
        square=True,
        cbar=False,
        linewidths=0.5,
        ax=ax,
    )
    for t in range(1, n if n <= 12 else 0):  # the first row is 1 by construction
        for s in range(t + 1):
            low, high = (summary[side].values[t, s] for side in ("lower", "upper"))
            colour = "black" if mean[t, s] > 0.55 else "white"
            interval = f"{percent(low)}–{percent(high)}"
            ax.text(
                s + 0.5, t + 0.5, interval, ha="center", va="center", color=colour, fontsize=5.5
            )
    labels = [drawable(character) for character in text]
    ax.set_xticks(np.arange(n) + 0.5, labels, rotation=0)
    ax.set_yticks(np.arange(n) + 0.5, labels, rotation=0)
    ax.set(xlabel="looks at", ylabel="position")
    return ax
