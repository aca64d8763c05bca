"""Weights of draws, for expectations under a distribution other than that of the draws.

Draws are weighted and not resampled. The effective number of draws and Pareto k are in ``attrs``.
"""

from __future__ import annotations

from collections.abc import Sequence

import arviz as az
import numpy as np
import xarray as xr

from gptbayes.findings import EFFECTIVE_DRAWS_LIMIT, pareto_k_limit, pareto_k_limit_words
from gptbayes.groups import pareto_smoothed
from gptbayes.stats.summary import log_mean_exp


def psis_weights(idata: az.InferenceData) -> xr.DataArray:
    """Compute Pareto-smoothed importance weights of Pathfinder draws (Vehtari et al. 2024).

    Parameters
    ----------
    idata : InferenceData
        A fit by Pathfinder.

    Returns
    -------
    DataArray (chain, draw)
        Smoothed ratios of posterior to approximate density, normalized to sum to one. ``attrs``
        has ``pareto_k`` and ``ess_weights``, the effective number of draws after weighting,
        1 / Σ w² (Kong 1992). If k is above its limit (`gptbayes.findings.pareto_k_limit`), the
        weights do not correct the approximation, and weighted means rest on a few draws.

    Raises
    ------
    ValueError
        If the fit is by another method, or a ratio is not finite.

    See Also
    --------
    chain_weights : Weights for draws of chains.
    compare_held_out : Takes these as its ``weights``.
    """
    ratios = importance_ratios(idata, "psis_weights")
    smoothed, k = pareto_smoothed(ratios.values.ravel())
    weights = np.exp(smoothed - smoothed.max())
    shaped = ratios.copy(data=(weights / weights.sum()).reshape(ratios.shape)).rename("weight")
    return shaped.assign_attrs(pareto_k=float(k), ess_weights=effective_draws(shaped))


def importance_ratios(idata: az.InferenceData, caller: str) -> xr.DataArray:
    """Compute log ratios of the posterior density to Pathfinder's approximation.

    Parameters
    ----------
    idata : InferenceData
        A fit by Pathfinder.
    caller : str
        The function that needs them, for the error message.

    Returns
    -------
    DataArray (chain, draw)
        In nats, up to a constant.

    Raises
    ------
    ValueError
        If the fit is by another method, or a ratio is not finite.
    """
    method = idata.attrs["method"]
    if method != "pathfinder":
        raise ValueError(f"{caller} needs a fit by pathfinder, got one by {method}")
    stats = idata.sample_stats
    ratios = (stats["lp"] - stats["lp_approx"]).transpose("chain", "draw")
    n_bad = int((~np.isfinite(ratios.values)).sum())
    if n_bad:
        raise ValueError(f"importance ratios must be finite, got {n_bad} nonfinite ones")
    return ratios


def chain_weights(
    idata: az.InferenceData, per_chain: Sequence[float] | np.ndarray | xr.DataArray
) -> xr.DataArray:
    """Compute weights of draws from weights of chains, as of `stack_chains`.

    Parameters
    ----------
    idata : InferenceData
    per_chain : sequence of float, (chain,)
        Nonnegative weights that sum to one. The draws of a chain share its weight equally.

    Returns
    -------
    DataArray (chain, draw)
        Weights that sum to one. ``attrs`` has ``ess_weights``, as of `psis_weights`.

    Raises
    ------
    ValueError
        If there is not one weight for each chain, a weight is negative, or they do not sum to one.

    Examples
    --------
    >>> import tempfile
    >>> import gptbayes as gb
    >>> problem = gb.make_problem(gb.stage("01"), gb.zen_of_python(), batch_size=11)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     idata = gb.open_run(gb.fit.prior(problem, folder, draws=20))
    >>> round(chain_weights(idata, [1.0]).attrs["ess_weights"], 6)
    20.0
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
    """Compute the effective number of weighted draws, 1 / Σ w² (Kong 1992).

    Parameters
    ----------
    weights : DataArray (chain, draw)
        Weights that sum to one.

    Returns
    -------
    float
    """
    return float(1 / (weights**2).sum())


def weighted_log_mean_exp(values: xr.DataArray, weights: xr.DataArray | None = None):
    """Compute the log of a weighted mean of exponentials over draws, without overflow.

    Parameters
    ----------
    values : DataArray (chain, draw, ...)
    weights : DataArray (chain, draw), optional
        Weights that sum to one. Equal by default.

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
    """Check that weights fit the draws of a fit.

    Parameters
    ----------
    weights : DataArray (chain, draw)
    idata : InferenceData
    name : str
        The fit, for the error message.

    Raises
    ------
    ValueError
        If weights have other dims or sizes, one is negative or nan, or they do not sum to one.
    """
    wanted = {dim: idata.posterior.sizes[dim] for dim in ("chain", "draw")}
    if dict(weights.sizes) != wanted:
        raise ValueError(f"weights of {name} must have sizes {wanted}, got {dict(weights.sizes)}")
    total = float(weights.sum())
    if not (weights >= 0).all() or abs(total - 1) > 1e-8:
        raise ValueError(
            f"weights of {name} must be nonnegative and sum to one, got sum {total:g} and "
            f"minimum {float(weights.min()):g}"
        )


def weights_warning(weights: xr.DataArray | None) -> str | None:
    """State why a weighted mean is unreliable.

    Parameters
    ----------
    weights : DataArray (chain, draw), or None for equal weights

    Returns
    -------
    str, or None if it is reliable
    """
    if weights is None:
        return None
    k, effective = weights.attrs.get("pareto_k", np.nan), effective_draws(weights)
    if k > pareto_k_limit(weights.size):
        size = f"{k:.1f}, above {pareto_k_limit_words(weights.size)}"
        return (
            f"Pareto k {size if np.isfinite(k) else 'unknown'}: importance weights do not correct "
            f"this approximation ({_effective_words(effective, weights.size)})"
        )
    if effective < EFFECTIVE_DRAWS_LIMIT:
        return f"only {_effective_words(effective, weights.size)} after weighting"
    return None


def _effective_words(effective, n):
    noun = "draw" if round(effective) == 1 else "draws"
    return f"{effective:.0f} effective {noun} of {n}"
