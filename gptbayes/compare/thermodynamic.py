"""Evidence, WBIC and learning coefficient from the log likelihood along a path to the posterior.

With m(β) and v(β) the mean and the variance of the log likelihood at likelihood weight β, d log Z
/ dβ = m and dm / dβ = v. The integral of m is the log evidence, m at β = 1 / log n is minus WBIC.
"""

from __future__ import annotations

import math

import numpy as np
import xarray as xr
from scipy.special import logsumexp


def thermodynamic_integration(path: xr.Dataset, upto: float | None = None) -> xr.DataArray:
    """Log evidence as the integral of the mean log likelihood over likelihood weights.

    Trapezoids with the correction by variances, which are the derivatives of the means (Friel,
    Hurn & Wyse 2014, equation 10):

        log Z ≈ Σ (β' - β) (m + m') / 2 - (β' - β)² (v' - v) / 12

    Parameters
    ----------
    path : Dataset (chain, level)
        As `gptbayes.inference.smc_path` returns it.
    upto : float, optional
        Integrate to the last level whose weight is not above this one.

    Returns
    -------
    DataArray (chain)
        Nats.

    See Also
    --------
    discretisation_error : The error due to the finite number of levels.
    """
    found = [_integral(*_moments(path.isel(chain=k), upto)) for k in range(path.sizes["chain"])]
    return xr.DataArray(found, dims="chain")


def discretisation_error(path: xr.Dataset) -> xr.DataArray:
    """Estimate the error of `thermodynamic_integration` due to the finite number of levels.

    The error of the corrected trapezoids is proportional to the fourth power of the distance
    between levels. Without every second level it is 16 times as large, so that a fifteenth of the
    difference estimates it (Richardson extrapolation).

    Parameters
    ----------
    path : Dataset (chain, level)

    Returns
    -------
    DataArray (chain)
        Integral minus log evidence, nats; nan with fewer than two steps.
    """
    found = []
    for k in range(path.sizes["chain"]):
        moments = _moments(path.isel(chain=k))
        n = len(moments[0])
        every_second = np.unique([*range(0, n, 2), n - 1])
        coarse = _integral(*(values[every_second] for values in moments))
        found.append((coarse - _integral(*moments)) / 15 if n > 2 else math.nan)
    return xr.DataArray(found, dims="chain")


def wbic_of_path(path: xr.Dataset, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Compute WBIC and the learning coefficient from the level below likelihood weight 1 / log n.

    Parameters
    ----------
    path : Dataset (chain, level)
    n : int
        Number of characters.

    Returns
    -------
    wbic, coefficient : ndarray, (chain,)
        Minus the mean log likelihood at β = 1 / log n, by importance weights from the level below,
        and β² times its variance; nan for fewer than 3 characters.
    """
    if n < 3:
        nothing = np.full(path.sizes["chain"], np.nan)
        return nothing, nothing
    beta = 1 / math.log(n)
    values = []
    for chain in range(path.sizes["chain"]):
        one = path.isel(chain=chain)
        weight = one["likelihood_weight"].values
        level = int(np.flatnonzero(weight <= beta)[-1])  # from above, weights would be unbounded
        log_lik = one["log_lik"].transpose("level", "draw").values[level]
        log_w = (beta - weight[level]) * log_lik
        w = np.exp(log_w - logsumexp(log_w))
        mean = (w * log_lik).sum()
        values.append((-mean, beta**2 * (w * (log_lik - mean) ** 2).sum()))
    wbic, coefficient = np.array(values).T
    return wbic, coefficient


def _moments(one, upto=None):
    """Likelihood weights of a replicate, and mean and variance of the log likelihood there."""
    weight = one["likelihood_weight"].values
    with np.errstate(invalid="ignore"):
        used = np.isfinite(weight) & ((weight <= upto) if upto is not None else True)
    return (weight[used], *(one[f"log_lik_{what}"].values[used] for what in ("mean", "var")))


def _integral(weight, mean, var):
    step = np.diff(weight)
    trapezoids = step * (mean[:-1] + mean[1:]) / 2
    return float((trapezoids - step**2 * np.diff(var) / 12).sum())
