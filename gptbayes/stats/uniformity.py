"""Tests of uniformity of ranks, simultaneous bands for their ECDF, and Holm's correction."""

from __future__ import annotations

import functools

import numpy as np
import xarray as xr
from scipy.optimize import minimize_scalar
from scipy.stats import binom, chisquare

MIN_EXPECTED = 5
"""Smallest expected count of a bin of the chi-square test (Cochran 1954)."""
MAX_BINS = 16
"""Maximum number of bins of the chi-square test."""
SMALLEST_P = 1e-13
"""Smaller p-values cannot be computed, because of rounding error in one minus a probability."""


def uniformity_test(ranks: xr.DataArray, n_ranked: int) -> xr.Dataset:
    """Test ranks for uniformity.

    Parameters
    ----------
    ranks : DataArray of int (replicate, quantity)
        The number of posterior draws below the true value, from 0 to ``n_ranked``.
    n_ranked : int
        Number of posterior draws.

    Returns
    -------
    Dataset (quantity)
        ``band_p``, the exact p-value of the largest departure of the ECDF of ranks from that of
        uniform ranks (Säilynoja, Bürkner & Vehtari 2022, section 2), at least 1e-13.
        ``chi_square_p``, the p-value of a chi-square test with the largest number of equal bins,
        up to 16, whose expected counts are at least 5; nan if there are fewer than two bins.
        ``mean_rank``, divided by ``n_ranked``, 0.5 for uniform ranks.

    Raises
    ------
    ValueError
        If there are no ranks, or a rank is out of range.

    See Also
    --------
    rank_ecdf : The ECDF, to plot.
    holm : Correction for the number of quantities.

    Examples
    --------
    >>> ranks = np.random.default_rng(1).integers(100, size=(200, 2))  # 0 to 99
    >>> test = uniformity_test(xr.DataArray(ranks, dims=("replicate", "quantity")), n_ranked=99)
    >>> bool((test["band_p"] > 0.05).all())
    True
    """
    _check(ranks, n_ranked)
    counts = _histogram(ranks, n_ranked)  # (quantity, rank)
    n = ranks.sizes["replicate"]
    columns = {
        "band_p": [_band_p_value(count, n) for count in counts],
        "chi_square_p": [_chi_square_p_value(count, n) for count in counts],
        "mean_rank": ranks.mean("replicate").values / n_ranked,
    }
    return xr.Dataset(
        {name: ("quantity", np.array(values)) for name, values in columns.items()},
        {"quantity": ranks["quantity"]},
        attrs={"n_replicates": n, "n_ranked": n_ranked},
    )


def rank_ecdf(ranks: xr.DataArray, n_ranked: int, *, prob: float = 0.95) -> xr.Dataset:
    """Compute the ECDF of ranks minus that of uniform ranks, with a simultaneous band.

    Parameters
    ----------
    ranks : DataArray of int (replicate, quantity)
    n_ranked : int
    prob : float
        Probability that the ECDF of uniform ranks of one quantity is everywhere in the band
        (Säilynoja, Bürkner & Vehtari 2022, algorithm 2). Ranks are discrete; the band is the one
        with the nearest probability.

    Returns
    -------
    Dataset (quantity, rank)
        ``difference`` (quantity, rank), and its band ``lower`` to ``upper`` (rank). The coord
        ``rank`` is scaled to (0, 1).

    Raises
    ------
    ValueError
        As `uniformity_test`, or if ``prob`` is not between 0 and 1.

    See Also
    --------
    gptbayes.plots.plot_rank_ecdf : The figure.
    """
    _check(ranks, n_ranked)
    if not 0 < prob < 1:
        raise ValueError(f"prob must be between 0 and 1, got {prob}")
    n = ranks.sizes["replicate"]
    uniform = _uniform_cdf(n_ranked)
    ecdf = _histogram(ranks, n_ranked).cumsum(axis=1)[:, :-1] / n
    lower, upper = _band(n, n_ranked, prob)
    return xr.Dataset(
        {
            "difference": (("quantity", "rank"), ecdf - uniform),
            "lower": ("rank", lower - uniform),
            "upper": ("rank", upper - uniform),
        },
        {"quantity": ranks["quantity"], "rank": uniform},
        attrs={"prob": prob, "n_replicates": n},
    )


def holm(p_values: np.ndarray) -> np.ndarray:
    """Adjust p-values for multiple testing under any dependence (Holm 1979).

    Parameters
    ----------
    p_values : ndarray, any shape
        nan values are ignored and remain nan.

    Returns
    -------
    ndarray, same shape
        Rejecting those below alpha has a family-wise error rate of at most alpha.

    Examples
    --------
    >>> holm(np.array([0.01, 0.04, np.nan])).tolist()
    [0.02, 0.04, nan]
    """
    p_values = np.asarray(p_values, dtype=float)
    adjusted = np.full(p_values.shape, np.nan)
    tested = np.isfinite(p_values)
    values = p_values[tested]
    order = np.argsort(values)
    steps = np.arange(values.size, 0, -1) * values[order]
    found = np.empty(values.size)
    found[order] = np.minimum(np.maximum.accumulate(steps), 1)
    adjusted[tested] = found
    return adjusted


def _check(ranks, n_ranked):
    if n_ranked < 1 or not ranks.size:
        raise ValueError(
            f"ranks need at least one replicate and one draw, got {ranks.size} ranks and "
            f"{n_ranked} draws"
        )
    low, high = int(ranks.min()), int(ranks.max())
    if low < 0 or high > n_ranked:
        raise ValueError(f"ranks must be from 0 to n_ranked = {n_ranked}, got {low} to {high}")


def _histogram(ranks, n_ranked):
    values = ranks.transpose("quantity", "replicate").values
    return np.stack([np.bincount(row, minlength=n_ranked + 1) for row in values])


def _uniform_cdf(n_ranked):
    """CDF of uniform ranks at 0 to n_ranked - 1; at n_ranked it is 1."""
    return np.arange(1, n_ranked + 1) / (n_ranked + 1)


def _chi_square_p_value(count, n):
    """The number of bins must divide the number of possible ranks."""
    wanted = min(MAX_BINS, n // MIN_EXPECTED)
    n_bins = next((k for k in range(wanted, 1, -1) if count.size % k == 0), None)
    if n_bins is None:
        return float("nan")
    return float(chisquare(count.reshape(n_bins, -1).sum(axis=1)).pvalue)


def _band_p_value(count, n):
    """Probability that uniform ranks leave the narrowest band that contains ``count``.

    At each rank the ECDF's count is binomial; the statistic is the smallest of all two-sided
    tail probabilities (Säilynoja et al. 2022, equation 6).
    """
    tails = _tails(n, count.size - 1)  # (rank, number of replicates at or below it)
    at = np.cumsum(count)[:-1]
    inside = tails > tails[np.arange(len(at)), at].min() * (
        1 + 1e-9
    )  # equally extreme counts are outside
    return float(min(1.0, max(SMALLEST_P, 1 - _prob_inside(inside))))


def _band(n, n_ranked, prob):
    """Limits (rank,) of the band of the ECDF of uniform ranks with probability near ``prob``.

    At each rank the limits are those of a central binomial interval. The mass of these intervals,
    the same at all ranks, is found by search.
    """

    def limits(mass):
        return binom.interval(mass, n, _uniform_cdf(n_ranked))

    def error(mass):
        lower, upper = limits(mass)
        counts = np.arange(n + 1)
        inside = (counts >= lower[:, None]) & (counts <= upper[:, None])
        return abs(_prob_inside(inside) - prob)

    lower, upper = limits(minimize_scalar(error, bounds=(prob, 1), method="bounded").x)
    return lower / n, upper / n


def _prob_inside(inside):
    """Probability that all counts of the ECDF of uniform ranks are allowed.

    Counts at successive ranks form a Markov chain, so that it is a product of matrices.

    Parameters
    ----------
    inside : ndarray of bool, (rank, count)
        Which numbers of replicates at or below each rank are allowed.
    """
    n_ranked, n = len(inside), inside.shape[1] - 1
    staying = np.eye(n + 1)[0]
    for step, allowed in zip(_steps(n, n_ranked), inside, strict=True):
        staying = (staying @ step) * allowed
    return staying.sum()


@functools.lru_cache(maxsize=8)
def _tails(n, n_ranked):
    """Smaller tail probability of each count under uniformity, (rank, count)."""
    counts, cdf = np.arange(n + 1), _uniform_cdf(n_ranked)[:, None]
    return np.minimum(binom.cdf(counts, n, cdf), binom.sf(counts - 1, n, cdf))


@functools.lru_cache(maxsize=4)
def _steps(n, n_ranked):
    """Transition probabilities between counts at successive ranks, (rank, count, count)."""
    before, after = np.arange(n + 1)[:, None], np.arange(n + 1)
    chance = 1 / np.arange(n_ranked + 1, 1, -1)  # of a replicate that is not yet counted
    return np.stack([binom.pmf(after - before, n - before, p) for p in chance])
