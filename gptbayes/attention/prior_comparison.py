"""Summaries of posterior draws beside those of the prior."""

from __future__ import annotations

from collections.abc import Mapping

import xarray as xr

from gptbayes.stats.probability import prob_greater, probability
from gptbayes.stats.summary import OVER, side_by_side, summarise


def summarise_with_prior(
    draws: Mapping[str, xr.DataArray],
    prob: float,
    *,
    positive: str | None = None,
    tolerance: float = 0.0,
) -> xr.Dataset:
    """Summarise draws of posterior and prior, and compare them.

    Parameters
    ----------
    draws : mapping of str to DataArray (chain, draw, ...)
        Of "posterior" and "prior".
    prob : float
        Mass of the intervals.
    positive : str, optional
        Name of the probability that a value is positive; by default it is not computed.
    tolerance : float
        Values up to this one are zero up to rounding error.

    Returns
    -------
    Dataset (source, ...)
        The statistics of `gptbayes.stats.summary.summarise`, and the probability with its Monte
        Carlo standard error, the same name with ``_mcse``. Without the dim source,
        ``exceeds_prior`` and ``exceeds_prior_mcse``: the probability that a posterior draw is
        larger than a prior draw.
    """
    tables = {}
    for source, each in draws.items():
        tables[source] = summarise(each, prob=prob, exact_constants=True)
        if positive is not None:
            likely = probability(each > tolerance, effective=tables[source]["ess_bulk"])
            likely = likely.where(each.notnull().all(OVER))
            names = {"probability": positive, "mcse": f"{positive}_mcse"}
            tables[source] = tables[source].assign(likely.rename(names))
    more = prob_greater(draws["posterior"], draws["prior"])
    return side_by_side(tables).assign(
        exceeds_prior=more["probability"], exceeds_prior_mcse=more["mcse"]
    )
