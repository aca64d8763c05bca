"""Calibration of one forecast, compared with outcomes that are simulated from it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr
from scipy.stats import kstest, kstwo

_CHUNK_SIZE = 2**21


def ordered_pit(
    probability: np.ndarray | xr.DataArray, tokens: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Randomized probability integral transform with characters ordered by their probability.

    The value is the total probability of the characters that were more probable than the one that
    occurred, plus a uniform fraction of the probability of that one (Czado, Gneiting & Held 2009,
    section 2). It is exactly uniform if characters are drawn from their forecasts. Large values
    are improbable characters; an excess of them means over-confidence.

    Parameters
    ----------
    probability : ndarray or DataArray, (..., token)
    tokens : ndarray of int, (...)
    rng : numpy.random.Generator

    Returns
    -------
    ndarray, (...)
        Between 0 and 1.
    """
    p, tokens = np.asarray(probability), np.asarray(tokens)[..., None]
    p_observed = np.take_along_axis(p, tokens, axis=-1)
    earlier = np.arange(p.shape[-1]) < tokens
    before = np.where((p > p_observed) | ((p == p_observed) & earlier), p, 0.0).sum(axis=-1)
    return np.clip(before + rng.random(p_observed.shape[:-1]) * p_observed[..., 0], 0.0, 1.0)


def calibration_of_one(
    p: np.ndarray,
    tokens: np.ndarray,
    rng: np.random.Generator,
    prob: float,
    edges: Sequence[float],
    n_simulations: int,
) -> tuple[xr.Dataset, xr.Dataset, xr.Dataset]:
    """Compute the reliability curve, calibration errors and PIT of one forecast.

    Parameters
    ----------
    p : ndarray, (held_out_sequence, position, token)
        Probabilities.
    tokens : ndarray of int, (held_out_sequence, position)
    rng : numpy.random.Generator
    prob, edges, n_simulations
        As for `gptbayes.predict.forecast_reliability`.

    Returns
    -------
    curve : Dataset (bin)
    calibration : Dataset ()
    pit : Dataset (value)
        One fit of the tables of `gptbayes.predict.Reliability`.
    """
    flat, outcomes = p.reshape(-1, p.shape[-1]), tokens.ravel()
    bins = np.clip(np.searchsorted(edges, flat, side="right") - 1, 0, len(edges) - 2)
    n_bins, n = len(edges) - 1, len(flat)
    count = np.bincount(bins.ravel(), minlength=n_bins)
    mass = np.bincount(bins.ravel(), flat.ravel(), minlength=n_bins)
    observed = np.bincount(bins[np.arange(n), outcomes], minlength=n_bins)
    simulated = _simulated_counts(flat, bins, n_bins, n_simulations, rng)
    lower, upper, band_p = _envelope(observed, simulated, prob)
    errors = 0.5 * abs(np.vstack([observed, simulated]) - mass).sum(axis=1) / n
    pit = ordered_pit(flat, outcomes, rng)
    curve = xr.Dataset(
        {
            "low": ("bin", np.array(edges[:-1])),
            "high": ("bin", np.array(edges[1:])),
            "count": ("bin", count),
            "share": ("bin", mass / n),
            **{
                name: ("bin", np.divide(v, count, out=np.full(n_bins, np.nan), where=count > 0))
                for name, v in (
                    ("predicted", mass),
                    ("observed", observed),
                    ("lower", lower),
                    ("upper", upper),
                )
            },
            "inside": ("bin", (observed >= lower) & (observed <= upper)),
        }
    )
    calibration = xr.Dataset(
        {
            "ece": errors[0],
            "ece_null_mean": errors[1:].mean(),
            "ece_null_q95": np.quantile(errors[1:], 0.95),
            "ece_p": (errors >= errors[0] * (1 - 1e-12)).mean(),
            "band_p": band_p,
            "pit_p": kstest(pit, "uniform").pvalue,
            "pit_mean": pit.mean(),
            "pit_mean_se": 1 / np.sqrt(12 * n),
        }
    )
    return curve, calibration, _pit_ecdf(pit, prob)


def _simulated_counts(p, bins, n_bins, n_simulations, rng):
    """Number of outcomes in each bin when characters are drawn from the forecasts.

    ``p`` and ``bins`` are (position, token); returns (simulation, bin).
    """
    n, n_token = p.shape
    cdf = p.cumsum(axis=1) / p.sum(axis=1, keepdims=True)
    size = max(1, _CHUNK_SIZE // n)
    parts = []
    for start in range(0, n_simulations, size):
        u = rng.random((min(size, n_simulations - start), n))
        token = np.zeros(u.shape, dtype=np.intp)
        for k in range(n_token - 1):
            token += u >= cdf[:, k]
        which = bins[np.arange(n), token] + n_bins * np.arange(len(u))[:, None]
        parts.append(np.bincount(which.ravel(), minlength=n_bins * len(u)).reshape(-1, n_bins))
    return np.concatenate(parts)


def _envelope(observed, simulated, prob):
    """Simultaneous band of counts, and the p-value of the observed curve.

    The extremeness of a curve is its smallest rank from either end over the bins, among all curves
    including the observed one; equal counts have the larger rank, so that ties are not extreme.
    Curves of equal rank are ordered by their largest standardized deviation. Without that, no
    p-value could be smaller than the fraction of curves that are the most extreme in some bin.
    """
    curves = np.vstack([observed, simulated])
    ordered = np.sort(curves, axis=0)
    n = len(curves)
    extreme = np.full(n, n)
    for k in range(curves.shape[1]):
        at_most = np.searchsorted(ordered[:, k], curves[:, k], side="right")
        at_least = n - np.searchsorted(ordered[:, k], curves[:, k], side="left")
        extreme = np.minimum(extreme, np.minimum(at_most, at_least))
    # The largest rank such that at most a fraction 1 - prob of the curves reach it.
    n_reaching = np.searchsorted(np.sort(extreme), np.arange(1, n + 1), side="right")
    allowed = int((n_reaching <= (1 - prob) * n).sum())  # ranks up to it are outside
    edge = min(allowed, (n - 1) // 2)
    spread = curves.std(axis=0)
    z = (abs(curves - curves.mean(axis=0)) / np.where(spread > 0, spread, 1.0)).max(axis=1)
    order = extreme - z / (1 + z)
    return ordered[edge], ordered[n - 1 - edge], float((order <= order[0] + 1e-9).mean())


def _pit_ecdf(pit, prob):
    grid = np.linspace(0, 1, 201)
    ecdf = np.searchsorted(np.sort(pit), grid, side="right") / pit.size
    reach = kstwo.ppf(prob, pit.size)
    return xr.Dataset(
        {
            "difference": ("value", ecdf - grid),
            "lower": ("value", np.maximum(-reach, -grid)),
            "upper": ("value", np.minimum(reach, 1 - grid)),
        },
        {"value": grid},
    )
