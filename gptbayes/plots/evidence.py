"""Figures of sequential Monte Carlo, evidence, and posterior masses of modes."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from gptbayes.plots.style import COLORS, MARKERS, literal, series_style


def plot_tempering(path: xr.Dataset, *, ax: Axes | None = None, **kwargs) -> Axes:
    """Plot the mean log likelihood by likelihood weight, one line for each replicate.

    The area under a line is the log evidence of that replicate, by thermodynamic integration.

    Parameters
    ----------
    path : Dataset (chain, level)
        As of `gptbayes.inference.smc_path`.
    ax : Axes, optional
    **kwargs
        Properties of the lines.

    Returns
    -------
    Axes
    """
    ax = plt.gca() if ax is None else ax
    smallest = float(path["likelihood_weight"].where(path["likelihood_weight"] > 0).min())
    for k in range(path.sizes["chain"]):
        one = path.isel(chain=k)
        weight, mean = one["likelihood_weight"].values, one["log_lik_mean"].values
        sd = np.sqrt(one["log_lik_var"].values)
        style = series_style(k)
        ax.plot(
            weight, mean, **{**style, "ms": 4, "lw": 1, "label": f"replicate {k + 1}", **kwargs}
        )
        ax.fill_between(weight, mean - sd, mean + sd, color=style["color"], alpha=0.15, lw=0)
    ax.set_xscale("symlog", linthresh=smallest)
    ax.set(xlabel="likelihood weight β", ylabel="log likelihood (nats)")
    ax.legend(frameon=False)
    return ax


def plot_level_health(path: xr.Dataset, *, ax: Axes | None = None, **kwargs) -> Axes:
    """Plot acceptance, weights and dependence by level, one line for each replicate.

    Parameters
    ----------
    path : Dataset (chain, level)
        As of `gptbayes.inference.smc_path`.
    ax : Axes, optional
    **kwargs
        Properties of the lines.

    Returns
    -------
    Axes
    """
    ax = plt.gca() if ax is None else ax
    shown = {
        "acceptance_rate": "mean acceptance",
        "ess": "effective fraction of the weights",
        "between_share": "variance between segments",
    }
    for (name, label), color, marker in zip(shown.items(), COLORS, MARKERS, strict=False):
        values = path[name].isel(level=slice(1, None)).transpose("level", "chain")
        style = {"color": color, "marker": marker, "ms": 3, "lw": 0.8, **kwargs}
        lines = ax.plot(values["level"], values.values, **style)
        lines[0].set_label(label)
    ax.set(xlabel="level", ylim=(-0.02, 1.02), ylabel="fraction")
    ax.legend(frameon=False)
    return ax


def plot_evidence(table: xr.Dataset, *, ax: Axes | None = None, **kwargs) -> Axes:
    """Plot two estimates of the log evidence of several fits, with two standard errors.

    Parameters
    ----------
    table : Dataset (fit)
        As of `gptbayes.compare.evidence.compare_evidence`.
    ax : Axes, optional
    **kwargs
        Properties of the markers.

    Returns
    -------
    Axes
    """
    ax = plt.gca() if ax is None else ax
    estimates = {
        "SMC": ("log_evidence", "se"),
        "thermodynamic integration": ("thermodynamic", "thermodynamic_se"),
    }
    y = np.arange(table.sizes["fit"])
    for k, (label, (name, se)) in enumerate(estimates.items()):
        style = {"fmt": MARKERS[k], "color": COLORS[k], "ms": 5, "label": label, **kwargs}
        error = 2 * np.nan_to_num(table[se].values)
        ax.errorbar(table[name].values, y + 0.2 * (k - 0.5), xerr=error, **style)
    ax.set_yticks(y, [literal(name) for name in table["fit"].values])
    ax.invert_yaxis()
    ax.set_xlabel("log evidence (nats, ± 2 standard errors)")
    ax.legend(frameon=False)
    return ax


def plot_evidence_by_size(
    gain: xr.DataArray, se: xr.DataArray, *, ax: Axes | None = None, **kwargs
) -> Axes:
    """Plot differences of log evidence by number of characters, one line for each model.

    Parameters
    ----------
    gain, se : DataArray (model, n_characters)
        Difference from a reference model in nats, and its standard error (0 for closed forms).
    ax : Axes, optional
    **kwargs
        Properties of the lines.

    Returns
    -------
    Axes
    """
    ax = plt.gca() if ax is None else ax
    ax.axhline(0, color="0.6", lw=0.8)
    _plot_by_size(ax, gain, 2 * se.fillna(0), kwargs)
    ax.set_ylabel("difference of log evidence (nats)")
    return ax


def plot_cost_by_size(cost: xr.DataArray, *, ax: Axes | None = None, **kwargs) -> Axes:
    """Plot what a fit costs by number of characters, one line for each model.

    Parameters
    ----------
    cost : DataArray (model, n_characters)
        For example seconds, or numbers of levels.
    ax : Axes, optional
    **kwargs
        Properties of the lines.

    Returns
    -------
    Axes
    """
    ax = plt.gca() if ax is None else ax
    _plot_by_size(ax, cost, None, kwargs)
    ax.set_yscale("log")
    return ax


def plot_mode_masses(of_replicate: xr.DataArray, *, ax: Axes | None = None, **kwargs) -> Axes:
    """Plot the mass of each mode in each replicate, and the mean.

    Parameters
    ----------
    of_replicate : DataArray (chain, mode)
        As in `gptbayes.diagnostics.mode_masses.ModeMasses`.
    ax : Axes, optional
    **kwargs
        Properties of the markers.

    Returns
    -------
    Axes
    """
    ax = plt.gca() if ax is None else ax
    for k in range(of_replicate.sizes["mode"]):
        values = of_replicate.isel(mode=k).values
        color = COLORS[k % len(COLORS)]
        ax.plot(
            np.full(len(values), k),
            values,
            "o",
            **{"color": color, "ms": 4, "alpha": 0.6, **kwargs},
        )
        ax.hlines(values.mean(), k - 0.25, k + 0.25, color=color, lw=2)
    ax.set_xticks(range(of_replicate.sizes["mode"]))
    ax.set_xticklabels([str(k + 1) for k in range(of_replicate.sizes["mode"])])
    ax.set(xlabel="mode", ylabel="mass", ylim=(-0.02, 1.02))
    return ax


def _plot_by_size(ax, values, errors, kwargs):
    """One line for each model over numbers of characters, and a legend beside many of them."""
    size = values["n_characters"].values
    names = values["model"].values
    for k, name in enumerate(names):
        line = {**series_style(k), "ms": 4, "lw": 1.2, "label": literal(name), **kwargs}
        error = None if errors is None else errors.sel(model=name).values
        ax.errorbar(size, values.sel(model=name).values, yerr=error, **line)
    ax.set_xscale("log", base=2)
    ax.set_xticks(size, [f"{int(each)}" for each in size])
    ax.tick_params(axis="x", which="minor", bottom=False)
    ax.set_xlabel("characters")
    beside = {"loc": "center left", "bbox_to_anchor": (1.0, 0.5), "fontsize": "small"}
    ax.legend(frameon=False, **(beside if len(names) > 6 else {}))
