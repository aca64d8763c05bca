"""Heads and hidden units of posterior draws, compared with those of prior draws."""

from __future__ import annotations

import numpy as np
import xarray as xr
from scipy.special import xlogy
from scipy.stats import kstwobign

from gptbayes.findings import EFFECTIVE_DRAWS_LIMIT
from gptbayes.model.forward import Parameters, active_hidden_units, attention_of, over_draws
from gptbayes.model.problem import Problem
from gptbayes.stats.summary import summarise

ALPHA = 0.01
"""Level of the test of a posterior summary against its prior."""


def part_summaries(problem: Problem, parameters: Parameters) -> dict[str, xr.DataArray]:
    """Summaries of each head and hidden unit, sorted within a draw.

    Parameters
    ----------
    problem : Problem
    parameters : mapping of str to ndarray
        Each ``(chain, draw, dims of that parameter)``.

    Returns
    -------
    dict of str to DataArray (chain, draw, layer, rank)
        Largest first. "norm of the query-key product", the Frobenius norm divided by the root of
        ``head_dim``; "distance from uniform attention", the entropy of uniform attention less that
        of the attention weights, in nats, averaged over the text; "active share of hidden units",
        the share of positions of the text where a unit is active. Empty for stages without heads.
    """
    stage, found = problem.stage, {}
    if "attention" in stage.features:
        found["norm of the query-key product"] = _query_key_norm(parameters)
        found["distance from uniform attention"] = over_draws(
            stage, parameters, problem.training.x, lambda c: _distance_from_uniform(problem, c)
        )
    if "feed_forward" in stage.features:
        found["active share of hidden units"] = over_draws(
            stage, parameters, problem.training.x, lambda c: _active_share(problem, c)
        )
    dims = ("chain", "draw", "layer", "rank")
    return {
        name: xr.DataArray(-np.sort(-values, axis=-1), dims=dims, name=name)
        for name, values in found.items()
    }


def compare_with_prior(posterior: xr.DataArray, prior: xr.DataArray) -> xr.Dataset:
    """Test whether a sorted summary has the same distribution in the posterior and in the prior.

    Parameters
    ----------
    posterior, prior : DataArray (chain, draw, layer, rank)
        As `part_summaries` returns them. Prior draws are independent.

    Returns
    -------
    Dataset (layer, rank)
        ``mean``, ``lower`` and ``upper`` of the posterior (90 % interval), ``prior_mean``,
        ``prior_lower`` and ``prior_upper``; ``ess_bulk``; ``distance``, the Kolmogorov-Smirnov
        statistic; ``limit``, its 99 % quantile if the distributions are equal, with the effective
        sample size of the posterior in place of its number of draws; ``differs``, whether the
        distance is above the limit and the posterior has more than 20 effective draws: of fewer
        that number is not known well enough.
    """
    ours, theirs = summarise(posterior), summarise(prior)
    pooled = (each.values.reshape(-1, *each.shape[2:]) for each in (posterior, prior))
    distance = (("layer", "rank"), _kolmogorov_smirnov(*pooled))
    n_prior = prior.sizes["chain"] * prior.sizes["draw"]
    # Antithetic draws are worth more than their number for the mean, not for the distribution.
    effective = np.minimum(ours["ess_bulk"], posterior.sizes["chain"] * posterior.sizes["draw"])
    limit = kstwobign.isf(ALPHA) * np.sqrt(1 / effective + 1 / n_prior)
    names = ("mean", "lower", "upper")
    found = xr.Dataset(
        {
            **{name: ours[name] for name in names},
            **{f"prior_{name}": theirs[name] for name in names},
            "ess_bulk": ours["ess_bulk"],
            "distance": distance,
            "limit": limit,
        }
    )
    differs = (found["distance"] > found["limit"]) & (effective > EFFECTIVE_DRAWS_LIMIT)
    return found.assign(differs=differs)


def _query_key_norm(parameters):
    q, k = parameters["query"], parameters["key"]
    grams = [np.swapaxes(each, -1, -2) @ each for each in (q, k)]  # (..., H, h, h)
    squares = (grams[0] * np.swapaxes(grams[1], -1, -2)).sum(axis=(-2, -1))
    return np.sqrt(np.maximum(squares, 0) / q.shape[-1])  # |Q Kᵀ|² is tr(QᵀQ KᵀK)


def _distance_from_uniform(problem, chunk):
    weights = attention_of(problem.stage, chunk, problem.training.x)[..., 1:, :]
    total = weights.sum(axis=-1, keepdims=True)  # less than one where a mask drops weights
    weights = weights / np.where(total > 0, total, 1)
    entropy = -xlogy(weights, weights).sum(axis=-1)  # (..., L, H, B, T - 1)
    largest = np.log(np.arange(2, problem.design.block_size + 1))
    return (largest - entropy).mean(axis=(-2, -1)) if len(largest) else entropy.sum(axis=(-2, -1))


def _active_share(problem, chunk):
    return active_hidden_units(problem.stage, chunk, problem.training.x).mean(axis=(-2, -1))


def _kolmogorov_smirnov(a, b):
    """Largest difference between the distribution functions of (draw, layer, rank) arrays."""
    distance = np.empty(a.shape[1:])
    for at in np.ndindex(distance.shape):
        each = [np.sort(values[:, *at]) for values in (a, b)]
        both = np.concatenate(each)
        shares = [np.searchsorted(v, both, side="right") / len(v) for v in each]
        distance[at] = np.abs(shares[0] - shares[1]).max()
    return distance
