"""Figures. Each function draws a summary that was computed elsewhere and returns the axes.

Colours are told apart by the colour-blind and in grey; what they say is also in words.
"""

from __future__ import annotations

import functools

import matplotlib

matplotlib.use("Agg", force=False)

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
import xarray as xr
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.cluster.hierarchy import dendrogram

from gptbayes.modes import Space

COLOURS = sns.color_palette("colorblind")
_MARKERS = "osD^vP*Xph"
_VISIBLE = {" ": "␣", "\n": "↵", "\t": "⇥"}


def visible(text: str) -> str:
    """A text in which white space can be seen."""
    return "".join(_VISIBLE.get(character, character) for character in text)


def drawable(text: str) -> str:
    """A text as it can be drawn: its visible characters, or their code points without a glyph."""
    return "".join(c if _has_glyph(c) else f"U+{ord(c):04X} " for c in visible(text)).rstrip()


def figure(n_axes: int = 1, *, width: float = 7.0, height: float = 3.2, columns: int | None = None):
    """A figure with one or several axes in the house style.

    Returns
    -------
    tuple of Figure and ndarray of Axes
    """
    sns.set_theme(style="ticks", palette=COLOURS, font=_families(), font_scale=0.85)
    columns = n_axes if columns is None else min(columns, n_axes)
    rows = -(-n_axes // columns)
    fig, axes = plt.subplots(
        rows, columns, figsize=(width, height * rows), squeeze=False, layout="constrained"
    )
    for unused in axes.ravel()[n_axes:]:
        unused.set_visible(False)
    return fig, axes.ravel()[:n_axes]


def close(fig: Figure) -> None:
    """Free a figure's memory."""
    plt.close(fig)


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
        _intervals(ax, y + 0.22, prior.sel(token=shown["token"]), "0.6", "prior", marker="s")
    _intervals(ax, y, shown, COLOURS[0], "posterior", marker="o")
    ax.set_yticks(y, [drawable(str(c)) for c in shown["token"].values])
    ax.set(ylim=(len(y) - 0.4, -0.6), xlim=(0, 1), xlabel="probability")
    if prior is not None:
        ax.legend(frameon=False, loc="lower right")
    sns.despine(ax=ax)
    return ax


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
            interval = f"{_percent(low)}–{_percent(high)}"
            ax.text(
                s + 0.5, t + 0.5, interval, ha="center", va="center", color=colour, fontsize=5.5
            )
    labels = [drawable(character) for character in text]
    ax.set_xticks(np.arange(n) + 0.5, labels, rotation=0)
    ax.set_yticks(np.arange(n) + 0.5, labels, rotation=0)
    ax.set(xlabel="looks at", ylabel="position")
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


def plot_rank_ecdf(summary: xr.Dataset, *, ax: Axes | None = None) -> Axes:
    """How far the ECDF of ranks is from that of uniform ones, one line for each quantity.

    Parameters
    ----------
    summary : Dataset (quantity, rank)
        As `gptbayes.uniformity.rank_ecdf` returns it.
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
        As `gptbayes.mixing.mixing_table` returns it, of the same kinds.
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
    space : gptbayes.modes.Space
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
        ax.plot(0, y, _MARKERS[chain[leaf] % 10], color=COLOURS[chain[leaf] % 10], clip_on=False)
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
    space : gptbayes.modes.Space
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
        ax.plot(*here.T, _MARKERS[k % 10] if k >= 0 else "x", color=colour, **style)
    if len(np.unique(label)) > 1:
        ax.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=4)
    ax.set_aspect("equal", adjustable="datalim")
    shown = f"{_percent(space.shown)} % of squared distances shown"
    ax.set(xlabel=f"first axis ({space.unit})\n{shown}", ylabel="second axis")
    sns.despine(ax=ax)
    return ax


@functools.cache
def _families():
    """The font that matplotlib brings, and what this machine has for other scripts."""
    installed = sorted({font.name for font in font_manager.fontManager.ttflist})
    return ["DejaVu Sans", *(name for name in installed if "CJK" in name)]


@functools.cache
def _has_glyph(character):
    paths = (font_manager.findfont(name) for name in _families())
    return any(font_manager.get_font(path).get_char_index(ord(character)) for path in paths)


def _intervals(ax, y, summary, colour, label, marker):
    ax.hlines(y, summary["lower"], summary["upper"], color=colour, lw=2)
    ax.plot(summary["mean"], y, marker, color=colour, ms=5, label=label)


def _percent(value):
    return f"{100 * value:.0f}"


def plot_path(found: xr.Dataset, *, alignment: str = "aligned", ax: Axes | None = None) -> Axes:
    """The log posterior along paths between chains, one colour and line style for each kind.

    Parameters
    ----------
    found : Dataset (alignment, path, pair, point)
        As `gptbayes.connect.connections` returns it.
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


def plot_contraction(local: xr.Dataset, *, ax: Axes | None = None) -> Axes:
    """What the text taught about each kind of parameter, as shares of its weights.

    Parameters
    ----------
    local : Dataset (block)
        As `gptbayes.contraction.local_contraction` returns it.
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
        As `gptbayes.contraction.compare_with_prior` returns it.
    label : str
        What is summarised.
    ax : Axes, optional

    Returns
    -------
    Axes
        Open circles are what cannot be told from the prior.
    """
    ax = plt.gca() if ax is None else ax
    n_layer, n_rank = table.sizes["layer"], table.sizes["rank"]
    flat = table.stack(row=("layer", "rank"))
    y = np.concatenate([np.arange(n_rank) + k * (n_rank + 1) for k in range(n_layer)])
    prior = xr.Dataset({name: flat[f"prior_{name}"] for name in ("mean", "lower", "upper")})
    _intervals(ax, y + 0.25, prior, "0.6", "prior", marker="s")
    _intervals(ax, y, flat, COLOURS[0], "posterior", marker="o")
    same = ~flat["told_apart"].values
    ax.plot(flat["mean"].values[same], y[same], "o", ms=5, mfc="white", color=COLOURS[0])
    middle = [k * (n_rank + 1) + (n_rank - 1) / 2 for k in range(n_layer)]
    names = [f"layer {k + 1}, " if n_layer > 1 else "" for k in range(n_layer)]
    ax.set_yticks(middle, [f"{name}largest\nto smallest" for name in names])
    ax.set(ylim=(y.max() + 0.8, -0.8), xlabel=label)
    ax.legend(frameon=False)
    sns.despine(ax=ax)
    return ax


_PATHS = {"straight": "straight path", "arc": "arc", "curve": "optimised curve"}
