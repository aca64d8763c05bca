"""Are ranks uniform? Two tests, a band to draw, and a correction for many of them."""

from __future__ import annotations

import functools

import numpy as np
import xarray as xr
from arviz.stats.ecdf_utils import ecdf_confidence_band
from scipy.stats import binom, chisquare

MIN_EXPECTED = 5
"""Of a bin of the chi-square test (Cochran 1954)."""
MAX_BINS = 16
SMALLEST_P = 1e-13
"""Where one minus a probability ends in rounding."""


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
        ``band_p``, of the largest departure of the ranks' ECDF (Säilynoja, Bürkner & Vehtari 2022,
        section 2): that such a departure comes from uniform ranks, computed exactly
        but never below 1e-13.
        ``chi_square_p``, of as many equal bins as 5 expected ranks in each allow, at most 16; nan
        where that is fewer than two. ``mean_rank``, from 0 to 1 and 0.5 when uniform.

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
    """The ECDF of ranks less that of uniform ones, with a band that holds at all ranks at once.

    Parameters
    ----------
    ranks : DataArray of int (replicate, quantity)
    n_ranked : int
    prob : float
        That uniform ranks of one quantity stay within the band everywhere (ArviZ's band, after
        Säilynoja, Bürkner & Vehtari 2022).

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
    lower, upper = ecdf_confidence_band(n, np.arange(n_ranked), uniform, prob=prob)
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
    """p-values adjusted for their number, under any dependence (Holm 1979).

    Parameters
    ----------
    p_values : ndarray, any shape
        Those that are nan are no tests and stay nan.

    Returns
    -------
    ndarray, same shape
        Rejecting those that are below alpha errs once or more with probability at most alpha.
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
    tail probabilities (their equation 6). Counts at successive ranks are a Markov chain, so that
    the probability of staying inside is a product of matrices.
    """
    tails = _tails(n, count.size - 1)  # (rank, number of replicates at or below it)
    at = np.cumsum(count)[:-1]
    inside = tails > tails[np.arange(len(at)), at].min() * (1 + 1e-9)  # as extreme is outside
    staying = np.eye(n + 1)[0]
    for step, allowed in zip(_steps(n, count.size - 1), inside, strict=True):
        staying = (staying @ step) * allowed
    return float(min(1.0, max(SMALLEST_P, 1 - staying.sum())))


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
