"""Tests that ranks are uniform, a band for their ECDF, and adjusted p-values."""

from __future__ import annotations

import functools

import numpy as np
import xarray as xr
from scipy.optimize import minimize_scalar
from scipy.stats import binom, chisquare

MIN_EXPECTED = 5
"""Smallest expected count of a bin of the chi-square test (Cochran 1954)."""
MAX_BINS = 16
SMALLEST_P = 1e-13
"""Smaller p-values are lost in the rounding of one minus a probability."""


def uniformity_test(ranks: xr.DataArray, n_ranked: int) -> xr.Dataset:
    """Test ranks for uniformity.

    Parameters
    ----------
    ranks : DataArray of int (replicate, quantity)
        Each from 0 to ``n_ranked``: how many of the posterior draws lie below the true value.
    n_ranked : int
        Number of posterior draws that each true value was ranked among.

    Returns
    -------
    Dataset (quantity)
        ``band_p``, the exact p-value of the largest departure of the ranks' ECDF from that of
        uniform ranks (Säilynoja, Bürkner & Vehtari 2022, section 2), at least 1e-13.
        ``chi_square_p``, the p-value of a chi-square test with as many equal bins as 5 expected
        ranks in each allow, at most 16; nan where these are fewer than two. ``mean_rank``, from 0
        to 1, 0.5 for uniform ranks.

    Raises
    ------
    ValueError
        If there are no ranks, or a rank is out of its range.
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
    """Difference between the ECDF of ranks and that of uniform ranks, with a simultaneous band.

    Parameters
    ----------
    ranks : DataArray of int (replicate, quantity)
    n_ranked : int
    prob : float
        Probability that uniform ranks of one quantity stay within the band everywhere
        (Säilynoja, Bürkner & Vehtari 2022, algorithm 2; ranks are discrete, and the band is that
        whose probability is nearest).

    Returns
    -------
    Dataset (quantity, rank)
        ``difference`` (quantity, rank); ``lower``, ``upper`` (rank), of the difference. ``rank``
        is the share of draws, in (0, 1).

    Raises
    ------
    ValueError
        As `uniformity_test`, and if ``prob`` is not between 0 and 1.
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
    """Adjust p-values for their number, under any dependence (Holm 1979).

    Parameters
    ----------
    p_values : ndarray, any shape
        nan stands for no test and stays nan.

    Returns
    -------
    ndarray, same shape
        Rejecting where these are below alpha has a family-wise error of at most alpha.
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
            f"ranks need a replicate and a draw, got {ranks.size} ranks among {n_ranked} draws"
        )
    low, high = int(ranks.min()), int(ranks.max())
    if low < 0 or high > n_ranked:
        raise ValueError(f"ranks must be from 0 to n_ranked = {n_ranked}, got {low} to {high}")


def _histogram(ranks, n_ranked):
    values = ranks.transpose("quantity", "replicate").values
    return np.stack([np.bincount(row, minlength=n_ranked + 1) for row in values])


def _uniform_cdf(n_ranked):
    """Of the ranks 0 to n_ranked - 1; at n_ranked it is 1 and says nothing."""
    return np.arange(1, n_ranked + 1) / (n_ranked + 1)


def _chi_square_p_value(count, n):
    """Equal bins need a divisor of the number of possible ranks."""
    wanted = min(MAX_BINS, n // MIN_EXPECTED)
    n_bins = next((k for k in range(wanted, 1, -1) if count.size % k == 0), None)
    if n_bins is None:
        return float("nan")
    return float(chisquare(count.reshape(n_bins, -1).sum(axis=1)).pvalue)


def _band_p_value(count, n):
    """The probability that uniform ranks leave the narrowest band that ``count`` stays within.

    At each rank the ECDF's count is binomial; the statistic is the smallest of all two-sided
    tail probabilities (Säilynoja et al. 2022, equation 6).
    """
    tails = _tails(n, count.size - 1)  # (rank, number of replicates at or below it)
    at = np.cumsum(count)[:-1]
    inside = tails > tails[np.arange(len(at)), at].min() * (1 + 1e-9)  # as extreme is outside
    return float(min(1.0, max(SMALLEST_P, 1 - _prob_inside(inside))))


def _band(n, n_ranked, prob):
    """Limits (rank,) of the ECDF that uniform ranks keep to with a probability near ``prob``.

    At each rank the limits are those of a central binomial interval; of all masses of these
    intervals, the search finds the one whose band has the wanted probability.
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
    """Probability that the ECDF of uniform ranks has allowed counts only.

    Counts at successive ranks are a Markov chain: it is a product of matrices.

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
    """Smaller tail of every count under uniformity, (rank, count)."""
    counts, cdf = np.arange(n + 1), _uniform_cdf(n_ranked)[:, None]
    return np.minimum(binom.cdf(counts, n, cdf), binom.sf(counts - 1, n, cdf))


@functools.lru_cache(maxsize=4)
def _steps(n, n_ranked):
    """Probabilities from the count at one rank to that at the next, (rank, count, count)."""
    before, after = np.arange(n + 1)[:, None], np.arange(n + 1)
    chance = 1 / np.arange(n_ranked + 1, 1, -1)  # of each replicate that is not below yet
    return np.stack([binom.pmf(after - before, n - before, p) for p in chance])
