"""Weights of draws: for expectations under another distribution than the draws come from.

Weights are values, never a resampling: which draws they are, and how many of them count, stays to
be seen in ``attrs``.
"""

from __future__ import annotations

from collections.abc import Sequence

import arviz as az
import numpy as np
import xarray as xr

from gptbayes.findings import EFFECTIVE_DRAWS_LIMIT, PARETO_K_LIMIT
from gptbayes.stats.summary import log_mean_exp


def psis_weights(idata: az.InferenceData) -> xr.DataArray:
    """Pareto-smoothed importance weights of Pathfinder's draws (Vehtari et al. 2024).

    Parameters
    ----------
    idata : InferenceData
        Of Pathfinder.

    Returns
    -------
    DataArray (chain, draw)
        Proportional to the smoothed ratios of posterior to approximation, summing to one.
        ``attrs`` have ``pareto_k``, and ``ess_weights``, the effective number of draws that the
        weights leave, 1 / Σ w² (Kong 1992). Where k is above 0.7 the weights do not correct the
        approximation: what they say is said by a few draws.

    Raises
    ------
    ValueError
        If the fit is not of Pathfinder, or a ratio is no number.
    """
    method = idata.attrs["method"]
    if method != "pathfinder":
        raise ValueError(f"psis_weights needs a fit by pathfinder, got one by {method}")
    stats = idata.sample_stats
    ratios = (stats["lp"] - stats["lp_approx"]).transpose("chain", "draw")
    if not np.isfinite(ratios.values).all():
        n_bad = int((~np.isfinite(ratios.values)).sum())
        raise ValueError(f"importance ratios must be finite, got {n_bad} that are not")
    smoothed, k = az.psislw(ratios.values.ravel())
    weights = np.exp(smoothed - smoothed.max())
    shaped = ratios.copy(data=(weights / weights.sum()).reshape(ratios.shape)).rename("weight")
    return shaped.assign_attrs(pareto_k=float(k), ess_weights=effective_draws(shaped))


def chain_weights(
    idata: az.InferenceData, per_chain: Sequence[float] | np.ndarray | xr.DataArray
) -> xr.DataArray:
    """Weights of draws from weights of chains, such as those of `gptbayes.predict.stack_chains`.

    Parameters
    ----------
    idata : InferenceData
    per_chain : sequence of float, (chain,)
        0 or more, summing to one; draws of a chain share its weight equally.

    Returns
    -------
    DataArray (chain, draw)
        Summing to one; ``ess_weights`` in ``attrs`` as of `psis_weights`.

    Raises
    ------
    ValueError
        If there are not as many weights as chains, or they are not such.
    """
    sizes = idata.posterior.sizes
    given = np.asarray(per_chain, dtype=float)
    if given.shape != (sizes["chain"],):
        raise ValueError(
            f"per_chain must be one weight for each of {sizes['chain']} chains, "
            f"got shape {given.shape}"
        )
    spread = np.repeat(given[:, None] / sizes["draw"], sizes["draw"], axis=1)
    coords = {name: idata.posterior[name] for name in ("chain", "draw")}
    weights = xr.DataArray(spread, dims=("chain", "draw"), coords=coords, name="weight")
    check_weights(weights, idata, "per_chain")
    return weights.assign_attrs(ess_weights=effective_draws(weights))


def effective_draws(weights: xr.DataArray) -> float:
    """How many equally weighted draws weights are worth, 1 / Σ w² (Kong 1992)."""
    return float(1 / (weights**2).sum())


def weighted_log_mean_exp(values: xr.DataArray, weights: xr.DataArray | None = None):
    """Log of the weighted mean over draws of the exponential, without overflow.

    Parameters
    ----------
    values : DataArray (chain, draw, ...)
    weights : DataArray (chain, draw), optional
        Summing to one; equal ones by default.

    Returns
    -------
    DataArray (...)
    """
    if weights is None:
        return log_mean_exp(values)
    counted = values.where(weights > 0, -np.inf)
    top = counted.max(("chain", "draw"))
    return np.log((weights * np.exp(counted - top)).sum(("chain", "draw"))) + top


def check_weights(weights: xr.DataArray, idata: az.InferenceData, name: str) -> None:
    """See that weights are those of a fit's draws.

    Raises
    ------
    ValueError
        If they have other dims or sizes, one is negative or no number, or they do not sum to one.
    """
    wanted = {dim: idata.posterior.sizes[dim] for dim in ("chain", "draw")}
    if dict(weights.sizes) != wanted:
        raise ValueError(f"weights of {name} must have sizes {wanted}, got {dict(weights.sizes)}")
    total = float(weights.sum())
    if not (weights >= 0).all() or abs(total - 1) > 1e-8:
        raise ValueError(
            f"weights of {name} must be 0 or more and sum to one, got a sum of {total:g} and a "
            f"smallest of {float(weights.min()):g}"
        )


def weights_warning(weights: xr.DataArray | None) -> str | None:
    """What is shaky about a weighted mean, in words, or None if nothing is."""
    if weights is None:
        return None
    k, effective = weights.attrs.get("pareto_k", np.nan), effective_draws(weights)
    if k > PARETO_K_LIMIT:
        return (
            f"Pareto k {k:.1f}, above {PARETO_K_LIMIT}: importance weights do not correct this "
            f"approximation, {effective:.0f} of {weights.size} draws count"
        )
    if effective < EFFECTIVE_DRAWS_LIMIT:
        return f"weights leave {effective:.0f} effective draws of {weights.size}"
    return None
