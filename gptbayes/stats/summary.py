"""Posterior summaries that carry their own uncertainty, as xarray."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import arviz as az
import numpy as np
import xarray as xr

from gptbayes.findings import Finding, convergence_finding


def summarise(draws: xr.DataArray, *, prob: float = 0.9) -> xr.Dataset:
    """Mean, spread, interval and Monte Carlo error of every element.

    Parameters
    ----------
    draws : DataArray (chain, draw, ...)
    prob : float
        Mass of the central interval.

    Returns
    -------
    Dataset (...)
        ``mean``, ``sd``, ``lower``, ``upper``, ``mcse_mean`` and ``ess_bulk``, and ``r_hat``
        which is nan for fewer than two chains. A single draw, a mode, has no spread: nan.
    """
    if not 0 < prob < 1:
        raise ValueError(f"prob must be between 0 and 1, got {prob}")
    over = ("chain", "draw")
    tail = (1 - prob) / 2
    if draws.sizes["draw"] < 4:
        nothing = xr.full_like(draws.mean(over), np.nan)
        names = ("sd", "lower", "upper", "mcse_mean", "ess_bulk", "r_hat")
        return xr.Dataset({"mean": draws.mean(over), **dict.fromkeys(names, nothing)})
    ess = _ess(draws, "bulk")
    sd = draws.std(over)
    return xr.Dataset(
        {
            "mean": draws.mean(over),
            "sd": sd,
            "lower": draws.quantile(tail, over).drop_vars("quantile"),
            "upper": draws.quantile(1 - tail, over).drop_vars("quantile"),
            "mcse_mean": mcse_mean(draws),
            "ess_bulk": ess,
            "r_hat": r_hat(draws),
        },
        attrs={"prob": prob},
    )


def r_hat(draws: xr.DataArray) -> xr.DataArray:
    """Rank-normalised split R-hat (Vehtari et al. 2021), nan for fewer than two chains.

    Parameters
    ----------
    draws : DataArray (chain, draw, ...)

    Returns
    -------
    DataArray (...)
    """
    if draws.sizes["chain"] < 2:
        return xr.full_like(draws.mean(("chain", "draw")), np.nan)
    return _quietly(az.rhat, draws)


def ess(draws: xr.DataArray, methods: Sequence[str] = ("bulk", "tail")) -> xr.Dataset:
    """Bulk and tail effective sample size (Vehtari et al. 2021).

    Parameters
    ----------
    draws : DataArray (chain, draw, ...)
    methods : sequence of str
        Which ones; the bulk's alone takes a third of the time.

    Returns
    -------
    Dataset (...)
        ``ess_bulk`` and ``ess_tail``, nan for fewer than four draws.
    """
    return xr.Dataset({f"ess_{method}": _ess(draws, method) for method in methods})


def mcse_mean(draws: xr.DataArray) -> xr.DataArray:
    """Monte Carlo standard error of the mean, alone: for many elements of which no more is shown.

    Parameters
    ----------
    draws : DataArray (chain, draw, ...)

    Returns
    -------
    DataArray (...)
        Nan for fewer than four draws.
    """
    return draws.std(("chain", "draw")) / np.sqrt(_ess(draws, "mean"))


def convergence_of(name: str, draws: xr.DataArray) -> Finding:
    """State how far draws of some quantities can be relied on, by the worst of them.

    Parameters
    ----------
    name : str
        What they are, e.g. ``"log probabilities"``.
    draws : DataArray (chain, draw, ...)

    Returns
    -------
    gptbayes.findings.Finding
    """
    sizes = ess(draws)
    return convergence_finding(
        name,
        r_hat=float(r_hat(draws).max()),
        ess_bulk=float(sizes["ess_bulk"].min()),
        ess_tail=float(sizes["ess_tail"].min()),
    )


def log_mean_exp(values: xr.DataArray, dims=("chain", "draw")) -> xr.DataArray:
    """Log of the mean of the exponential, without overflow."""
    top = values.max(dims)
    return np.log(np.exp(values - top).mean(dims)) + top


def _ess(draws, method):
    if draws.sizes["draw"] < 4:
        return xr.full_like(draws.mean(("chain", "draw")), np.nan)
    return _quietly(lambda values: az.ess(values, method=method), draws)


def _quietly(function, draws):
    """ArviZ on one array; elements that never change have no R-hat, and that is no news."""
    with warnings.catch_warnings(), np.errstate(invalid="ignore", divide="ignore"):
        warnings.simplefilter("ignore", RuntimeWarning)
        return function(draws.rename("value").to_dataset())["value"]
