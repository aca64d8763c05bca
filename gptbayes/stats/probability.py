"""Probabilities estimated from draws, with their Monte Carlo standard errors."""

from __future__ import annotations

import numpy as np
import xarray as xr

from gptbayes.stats import mcmc, ranks
from gptbayes.stats.blocks import over_blocks, scalars_first
from gptbayes.stats.summary import CONSTANT, OVER


def probability(events: xr.DataArray, *, effective: xr.DataArray | None = None) -> xr.Dataset:
    """Probability of events, the share of draws in which they are true.

    Parameters
    ----------
    events : DataArray of bool (chain, draw, ...)
    effective : DataArray (...), optional
        Effective sample size to use for an event that is the same in every draw, which has none of
        its own; by default, and where it is nan, the number of draws.

    Returns
    -------
    Dataset (...)
        ``probability`` and ``mcse``, √(p (1 - p) / ess), where p is moved towards one half by
        half a draw on either side (the Bayes estimate under Jeffreys' prior): an event that
        never happened in n draws has an error of about 0.7 / n and not of 0. ``mcse`` is nan for
        fewer than four draws per chain.
    """
    values = events.transpose(*OVER, ...).astype(float)
    share = values.mean(OVER)
    n = values.sizes["chain"] * values.sizes["draw"]
    if values.sizes["draw"] < mcmc.MIN_DRAWS:
        return xr.Dataset({"probability": share, "mcse": xr.full_like(share, np.nan)})
    never_changes = (share == 0) | (share == 1)
    size = _ess_mean(values, ~never_changes)
    fallback = n if effective is None else effective.fillna(n)
    size = xr.where(never_changes, fallback, size).clip(1, None)
    moved = (size * share + 0.5) / (size + 1)
    return xr.Dataset({"probability": share, "mcse": np.sqrt(moved * (1 - moved) / size)})


def prob_greater(one: xr.DataArray, other: xr.DataArray) -> xr.Dataset:
    """Probability that a draw of one distribution exceeds an independent draw of another.

    Parameters
    ----------
    one, other : DataArray (chain, draw, ...)
        The same dims after chain and draw; nan where there is nothing to compare.

    Returns
    -------
    Dataset (...)
        ``probability``, ties counting half (Mann & Whitney 1947), one half for equal
        distributions, and ``mcse``: to first order the variance of such a statistic is that of its
        two projections (Hoeffding 1948), each with the effective sample size of its own draws.
        ``mcse`` is nan for fewer than four draws per chain of either.
    """
    one = one.transpose(*OVER, ...)
    other = other.transpose(*OVER, *one.dims[2:])
    below, above = (
        each.copy(data=values)
        for each, values in zip((one, other), _projections(one.values, other.values), strict=True)
    )
    if min(one.sizes["draw"], other.sizes["draw"]) < mcmc.MIN_DRAWS:
        error = xr.full_like(below.mean(OVER), np.nan)
    else:
        error = np.hypot(_mean_error(below), _mean_error(above))
    return xr.Dataset({"probability": below.mean(OVER), "mcse": error})


def _projections(one, other):
    """Share of ``other`` below each draw of ``one``, and of ``one`` above each of ``other``.

    Ties count half; nan where a draw is nan.
    """
    ours, theirs = (each.reshape(*each.shape[:2], -1) for each in (one, other))
    below, above = np.empty(ours.shape), np.empty(theirs.shape)

    def of_block(some):
        a, b = scalars_first(ours[..., some]), scalars_first(theirs[..., some])
        shares = _shares_below(a.reshape(len(a), -1), b.reshape(len(b), -1))
        below[..., some] = np.moveaxis(shares[0].reshape(a.shape), 0, -1)
        above[..., some] = np.moveaxis(1 - shares[1].reshape(b.shape), 0, -1)

    n_draws = ours.shape[0] * ours.shape[1] + theirs.shape[0] * theirs.shape[1]
    over_blocks(of_block, ours.shape[2], n_draws)
    below[np.isnan(ours)] = above[np.isnan(theirs)] = np.nan
    return below.reshape(one.shape), above.reshape(other.shape)


def _shares_below(a, b):
    """Share of row b below each number of row a, and of a below each of b, (row, n), (row, m).

    A number's rank among both rows together, less its rank in its own, is how many of the other
    row are below it.
    """
    orders = [ranks.argsort(each) for each in (a, b)]
    ascending = [ranks.take(each, order) for each, order in zip((a, b), orders, strict=True)]
    both = np.concatenate(ascending, axis=-1)
    order = np.argsort(both, axis=-1, kind="stable")  # two sorted runs: they are merged
    doubled = ranks.put_back(ranks.doubled_ranks(ranks.take(both, order)), order)
    n = a.shape[-1]
    ends = doubled[:, :n], doubled[:, n:]
    return [
        ranks.put_back((rank - ranks.doubled_ranks(own)) / (2 * others), order)
        for rank, own, order, others in zip(ends, ascending, orders, (b.shape[-1], n), strict=True)
    ]


def _mean_error(values):
    """Monte Carlo standard error of a mean over draws; 0 where all are alike."""
    varies = values.max(OVER) - values.min(OVER) > CONSTANT
    size = xr.where(varies, _ess_mean(values, varies), 1.0)
    return values.std(OVER) / np.sqrt(size)


def _ess_mean(values, chosen):
    """Effective sample size of means, of the chosen scalars only."""
    dims = values.dims[2:]
    where = chosen.transpose(*dims).values
    sizes = mcmc.statistics(values.values, ["ess_mean"], where=where)["ess_mean"]
    return xr.DataArray(sizes, dims=dims)
