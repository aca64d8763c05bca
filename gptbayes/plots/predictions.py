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
    table: xr.Dataset, *, yardsticks: dict[str, float] | None = None, ax: Axes | None = None
) -> Axes:
    """Held-out log predictive density per character of several fits, with two standard errors.

    Parameters
    ----------
    table : Dataset (fit)
        As in `gptbayes.predict.Comparison`.
    yardsticks : dict of str to float, optional
        Vertical lines, for example of a uniform guess, in nats per character.
    ax : Axes, optional

    Returns
    -------
    Axes
    """
    ax = plt.gca() if ax is None else ax
    y = np.arange(table.sizes["fit"])
    for style, (name, value) in zip(("--", ":", "-."), (yardsticks or {}).items(), strict=False):
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
    if yardsticks:
        ax.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)
    sns.despine(ax=ax)
    return ax


def plot_ladder(
    values: xr.Dataset, *, yardsticks: dict[str, float] | None = None, ax: Axes | None = None
) -> Axes:
    """A value of every stage of the ladder, one line for each method, with its standard error.

    Parameters
    ----------
    values : Dataset (fit, stage)
        ``mean`` and ``se``.
    yardsticks : dict of str to float, optional
        Horizontal lines.
    ax : Axes, optional

    Returns
    -------
    Axes
    """
    ax = plt.gca() if ax is None else ax
    x = np.arange(values.sizes["stage"])
    for k, (name, marker) in enumerate(zip(values["fit"].values, "os^Dv", strict=False)):
        one = values.sel(fit=name)
        style = {"color": COLOURS[k], "marker": marker, "ms": 4, "lw": 1.2, "capsize": 2}
        ax.errorbar(x + 0.12 * (k - 1), one["mean"], one["se"], label=str(name), **style)
    for style, (name, value) in zip(("--", ":", "-."), (yardsticks or {}).items(), strict=False):
        ax.axhline(value, color="0.4", ls=style, lw=1, label=name)
    ax.set_xticks(x, [str(stage) for stage in values["stage"].values])
    ax.set(xlabel="stage")
    ax.legend(frameon=False, fontsize="small")
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
