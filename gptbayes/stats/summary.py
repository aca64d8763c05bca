"""Posterior summaries with their Monte Carlo error, as xarray."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
import xarray as xr

from gptbayes.findings import Finding, convergence_finding
from gptbayes.stats import mcmc

OVER = ("chain", "draw")
STATISTICS = ("mean", "sd", "lower", "upper", "mcse_mean", "ess_bulk", "ess_tail", "r_hat")
"""Variables of a summary."""
Table = TypeVar("Table", xr.Dataset, xr.DataArray)
CONSTANT = 1e-12
"""A scalar whose range is a smaller share of its size (or of 1) does not vary over the draws."""


def summarise(
    draws: xr.DataArray, *, prob: float = 0.9, exact_constants: bool = False
) -> xr.Dataset:
    """Mean, standard deviation, interval, Monte Carlo error, ESS and R-hat of every scalar.

    Parameters
    ----------
    draws : DataArray (chain, draw, ...)
    prob : float
        Mass of the central interval.
    exact_constants : bool
        Whether scalars that are the same in every draw are known exactly, as attention weights on
        the future are: ``sd`` and ``mcse_mean`` are then 0, ``lower`` and ``upper`` are the value,
        and ``ess_bulk``, ``ess_tail`` and ``r_hat``, which are not defined, are nan. By default
        such a scalar has as many effective draws as there are draws.

    Returns
    -------
    Dataset (...)
        ``mean``, ``sd``, ``lower``, ``upper``, ``mcse_mean``, ``ess_bulk``, ``ess_tail`` and
        ``r_hat``. R-hat is nan for one chain, everything but the mean for fewer than four draws
        per chain.

    Raises
    ------
    ValueError
        If ``prob`` is not between 0 and 1.

    See Also
    --------
    gptbayes.stats.mcmc : definitions and sources of the diagnostics.
    """
    if not 0 < prob < 1:
        raise ValueError(f"prob must be between 0 and 1, got {prob}")
    draws = draws.transpose(*OVER, ...)
    varies = _varies(draws.values) if exact_constants else None
    tail, enough = (1 - prob) / 2, draws.sizes["draw"] >= mcmc.MIN_DRAWS
    found = mcmc.statistics(
        draws.values,
        ["mean", "sd", "ess_mean", "ess_bulk", "ess_tail", "r_hat"] if enough else ["mean"],
        quantiles={"lower": tail, "upper": 1 - tail} if enough else None,
        where=varies,
    )
    if enough:
        found["mcse_mean"] = found["sd"] / np.sqrt(found.pop("ess_mean"))
    nothing = np.full(draws.shape[2:], np.nan)
    found = {name: found.get(name, nothing) for name in STATISTICS}
    if exact_constants:
        found = _with_constants(found, draws.values, varies)
    return xr.Dataset(
        {name: _without_draws(draws, values) for name, values in found.items()},
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
    return diagnostics(draws, ["r_hat"])["r_hat"]


def ess(draws: xr.DataArray, methods: Sequence[str] = ("bulk", "tail")) -> xr.Dataset:
    """Bulk and tail effective sample size (Vehtari et al. 2021).

    Parameters
    ----------
    draws : DataArray (chain, draw, ...)
    methods : sequence of str
        Of "bulk", "tail" and "mean".

    Returns
    -------
    Dataset (...)
        ``ess_bulk`` and ``ess_tail``, nan for fewer than four draws per chain.
    """
    return diagnostics(draws, [f"ess_{method}" for method in methods])


def diagnostics(
    draws: xr.DataArray, names: Sequence[str] = ("r_hat", "ess_bulk", "ess_tail")
) -> xr.Dataset:
    """Several diagnostics of every scalar, for which its draws are sorted once.

    Parameters
    ----------
    draws : DataArray (chain, draw, ...)
    names : sequence of str
        As for `gptbayes.stats.mcmc.statistics`.

    Returns
    -------
    Dataset (...)
    """
    draws = draws.transpose(*OVER, ...)
    found = mcmc.statistics(draws.values, names)
    return xr.Dataset({name: _without_draws(draws, values) for name, values in found.items()})


def mcse_mean(draws: xr.DataArray) -> xr.DataArray:
    """Monte Carlo standard error of the mean.

    Parameters
    ----------
    draws : DataArray (chain, draw, ...)

    Returns
    -------
    DataArray (...)
        As in `summarise`: the standard deviation (divisor n) over the root of the ESS of the mean;
        nan for fewer than four draws per chain.
    """
    found = diagnostics(draws, ["sd", "ess_mean"])
    return found["sd"] / np.sqrt(found["ess_mean"])


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
    worst = diagnostics(draws)
    return convergence_finding(
        name,
        r_hat=float(worst["r_hat"].max()),
        ess_bulk=float(worst["ess_bulk"].min()),
        ess_tail=float(worst["ess_tail"].min()),
    )


def log_mean_exp(values: xr.DataArray, dims: Any = OVER) -> xr.DataArray:
    """Log of the mean of the exponential, without overflow.

    Parameters
    ----------
    values : DataArray
    dims : str or sequence of str
        Over which the mean is taken.

    Returns
    -------
    DataArray
        Without these dims.
    """
    top = values.max(dims)
    return np.log(np.exp(values - top).mean(dims)) + top


def side_by_side(tables: dict[str, Table]) -> Table:
    """Join summaries of several sources, such as posterior and prior.

    Parameters
    ----------
    tables : dict of str to Dataset, or of str to DataArray
        By the name of the source.

    Returns
    -------
    Dataset or DataArray (source, ...)
    """
    names = xr.DataArray(list(tables), dims="source", name="source")
    joined = xr.concat(list(tables.values()), names, combine_attrs="override")
    return joined.transpose("source", ...)


def _varies(values):
    """Which scalars are not the same in every draw."""
    size = np.maximum(1, abs(values[0, 0]))
    return ~(np.ptp(values, axis=(0, 1)) <= CONSTANT * size) & ~np.isnan(values).all(axis=(0, 1))


def _with_constants(found, values, varies):
    """Summaries of scalars that do not vary: the value itself, without error."""
    first = values[0, 0]
    single = values.shape[0] * values.shape[1] < 2  # of one draw nothing is known to be constant
    zero = np.where(np.isnan(first) | single, np.nan, 0.0)
    constants = {"mean": first, "sd": zero, "mcse_mean": zero}
    constants |= {"lower": first + zero, "upper": first + zero}
    return {
        name: np.where(varies, each, constants[name]) if name in constants else each
        for name, each in found.items()
    }


def _without_draws(draws, values):
    """Values of scalars, with the dims and coordinates that do not belong to chains and draws."""
    coords = {name: each for name, each in draws.coords.items() if not {*each.dims} & {*OVER}}
    return xr.DataArray(values, dims=draws.dims[2:], coords=coords)
