"""Are next-character probabilities calibrated, and how good are they?

Calibration is judged against what a calibrated forecaster would show by chance: outcomes are
simulated from the forecasts themselves, one character for each place, which keeps the dependence
between the characters of a place (one comes, the others do not). The hypothesis is that of
sequential forecasts (Dawid 1984): each character is drawn from its forecast, given all text before
it. Then what comes at different places is as if independent, whatever contexts it makes. A
forecaster that reads only the last few characters may be right about what it reads and still have
its errors correlated along the text; what is said of chance is then a little too strict.

Scores need no such hypothesis. Their standard errors are over sequences, the unit of the whole
package, and so is everything paired.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import arviz as az
import numpy as np
import xarray as xr
from scipy.stats import kstest, kstwo

from gptbayes.findings import Finding
from gptbayes.inference import problem_of
from gptbayes.predict.calibration_findings import (
    calibration_findings,
    draws_findings,
    power_findings,
)
from gptbayes.predict.held_out import held_out_predictive

EDGES = (0.0, 0.01, 0.03, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""Of the bins: finer where most characters of a place are, and the same for all forecasters."""
N_SIMULATIONS = 1000
_AT_A_TIME = 2**21


class Reliability(NamedTuple):
    """How forecasts of next characters did, several forecasters side by side.

    Attributes
    ----------
    curve : Dataset (fit, bin)
        Of all characters of the vocabulary at all places, those given a probability in the bin
        (``low``, ``high``; bins are closed below, the last one on both sides): how many there are,
        ``count``; their mean probability ``predicted``; the share ``observed`` that came; the
        band ``lower`` to ``upper`` where shares of a calibrated forecaster lie in *all* bins at
        once with probability ``prob`` (in ``attrs``); ``inside``, whether observed does. Where
        the count is 0 all are nan. ``share`` is the part of all probability in the bin.
    calibration : Dataset (fit)
        ``ece``, the expected calibration error (see `forecast_reliability`), and under the
        hypothesis of calibration its mean ``ece_floor``, its 95 % point ``ece_upper`` and the
        p-value ``ece_p``; ``band_p`` of the curve's largest departure; ``pit_p`` of the PIT
        (Kolmogorov-Smirnov), ``pit_mean`` and ``pit_mean_se``, under the hypothesis: 0.5 if
        calibrated, more if over-confident, less if under-confident.
    scores : Dataset (fit)
        As `proper_scores` returns them, with ``log_score_difference`` and ``brier_difference``
        to the first fit and their paired standard errors ``log_score_difference_se`` and
        ``brier_difference_se``.
    pit : Dataset (fit, value)
        ``difference``, the ECDF of the PIT less that of uniform values, and the band ``lower`` to
        ``upper`` where it stays everywhere with probability ``prob``.
    by_position : Dataset (fit, position)
        ``log_score`` and ``log_score_se``; ``gain`` over the first position, paired within
        sequences, and ``gain_se``; in nats per character.
    findings : dict of str to list of gptbayes.findings.Finding
        What is to be said of each fit, warnings included.
    power : list of gptbayes.findings.Finding
        Warnings about the amount of held-out text, common to all fits.
    """

    curve: xr.Dataset
    calibration: xr.Dataset
    scores: xr.Dataset
    pit: xr.Dataset
    by_position: xr.Dataset
    findings: dict[str, list[Finding]]
    power: list[Finding]


def held_out_reliability(
    fits: Mapping[str, az.InferenceData],
    rng: np.random.Generator,
    weights: Mapping[str, xr.DataArray] | None = None,
    *,
    prob: float = 0.9,
    n_simulations: int = N_SIMULATIONS,
) -> Reliability:
    """Calibration and scores of several fits' posterior mean predictions of held-out text.

    A character's forecast is the mean over draws of its probability given the characters before
    it in its sequence. That of a mode is the plug-in forecast.

    Parameters
    ----------
    fits : mapping of str to InferenceData
        Of the same text and windows; the first is what scores are compared to.
    rng : numpy.random.Generator
    weights : mapping of str to DataArray (chain, draw), optional
        As for `compare_held_out`.
    prob, n_simulations
        As for `forecast_reliability`.

    Returns
    -------
    Reliability

    Raises
    ------
    ValueError
        If the fits have different held-out text, and as `forecast_reliability`.
    """
    if not fits:
        raise ValueError("held_out_reliability needs at least one fit")
    weights = dict(weights or {})
    unknown = [name for name in weights if name not in fits]
    if unknown:
        raise ValueError(f"weights must be of {', '.join(fits)}, got those of {unknown[0]}")
    tokens = [problem_of(idata).held_out.y for idata in fits.values()]
    if not all(np.array_equal(tokens[0], each) for each in tokens):
        raise ValueError(f"fits must have the same held-out text: {', '.join(fits)}")
    forecasts = {n: held_out_predictive(idata, weights.get(n)) for n, idata in fits.items()}
    found = forecast_reliability(forecasts, tokens[0], rng, prob=prob, n_simulations=n_simulations)
    for name, idata in fits.items():
        found.findings[name] += draws_findings(idata, weights.get(name))
    return found


def forecast_reliability(
    forecasts: Mapping[str, xr.DataArray],
    tokens: np.ndarray,
    rng: np.random.Generator,
    *,
    prob: float = 0.9,
    edges: tuple[float, ...] = EDGES,
    n_simulations: int = N_SIMULATIONS,
) -> Reliability:
    """Calibration and scores of forecasts of characters that are known.

    Parameters
    ----------
    forecasts : mapping of str to DataArray (held_out_sequence, position, token)
        Probabilities; the first is what scores are compared to.
    tokens : ndarray of int, (held_out_sequence, position)
        What came, 0-based.
    rng : numpy.random.Generator
    prob : float
        That a calibrated forecaster stays inside a band everywhere.
    edges : tuple of float
        Of the bins of the reliability curve, from 0 to 1. Fixed, so that curves compare; bins of
        equal counts would all lie among the improbable characters, which nearly all are.
    n_simulations : int
        Outcomes simulated from each forecast.

    Returns
    -------
    Reliability

    Raises
    ------
    ValueError
        If probabilities do not fit the tokens, are no probabilities, or settings are unusable.

    Notes
    -----
    *Band.* In each bin the count of characters that came is ranked among simulated ones, from
    above and below; the band is as many ranks wide as makes the observed and the simulated curves
    stay inside in all bins with probability ``prob`` (global envelope, Myllymäki et al. 2017).

    *Expected calibration error.* Half the sum over bins of the absolute difference of the numbers
    of characters that came and that were expected, divided by the number of places: the part of
    the probability that lies in the wrong bin. With two tokens it is the usual error of binary
    forecasts (Naeini et al. 2015), both counted. It is never 0, not even for perfect forecasts:
    the floor is its distribution over the same simulated outcomes.

    *PIT.* See `ordered_pit`; its band and p-value are Kolmogorov's, exact for its sample size.

    *Tests.* p-values count what was observed among the simulated (Monte Carlo tests, Besag &
    Clifford 1989): under the hypothesis they are below alpha with probability alpha at most.
    """
    _check_settings(forecasts, prob, edges, n_simulations)
    tokens = np.asarray(tokens)
    arrays = {name: _checked(name, each, tokens) for name, each in forecasts.items()}
    judged = [_judged(p, tokens, rng, prob, edges, n_simulations) for p in arrays.values()]
    names = xr.DataArray(list(forecasts), dims="fit", name="fit")
    curve, calibration, pit = (xr.concat(part, names) for part in zip(*judged, strict=True))
    found = Reliability(
        curve.assign_attrs(prob=prob, n_character=tokens.size),
        calibration.assign_attrs(n_character=tokens.size, n_simulations=n_simulations),
        _compared([proper_scores(p, tokens) for p in arrays.values()], names),
        pit.assign_attrs(prob=prob, n_character=tokens.size),
        xr.concat([_by_position(p, tokens) for p in arrays.values()], names),
        {},
        power_findings(len(tokens), tokens.size),
    )
    found.findings.update(
        {name: calibration_findings(found, name, len(tokens)) for name in forecasts}
    )
    return found


def proper_scores(probability: np.ndarray | xr.DataArray, tokens: np.ndarray) -> xr.Dataset:
    """Proper scores of forecasts (Gneiting & Raftery 2007), sequence by sequence and in the mean.

    Parameters
    ----------
    probability : ndarray or DataArray, (held_out_sequence, position, token)
    tokens : ndarray of int, (held_out_sequence, position)

    Returns
    -------
    Dataset (held_out_sequence)
        ``log_score``, mean log probability of the characters that came in nats, more is better,
        -inf if one of them had none; ``brier``, mean of Σ_k (p_k - o_k)², from 0 to 2, less is
        better (Brier 1950); ``log_score_se`` and ``brier_se`` over sequences, nan for a single
        one. ``log_score_pointwise`` and ``brier_pointwise`` (held_out_sequence) are means over
        the characters of a sequence.
    """
    p, tokens = np.asarray(probability), np.asarray(tokens)
    came = np.take_along_axis(p, tokens[..., None], axis=-1)[..., 0]
    brier = (p**2).sum(axis=-1) - 2 * came + 1
    terms = {"log_score": _log(came).mean(axis=-1), "brier": brier.mean(axis=-1)}
    table = xr.Dataset()
    for name, each in terms.items():
        table[name], table[f"{name}_se"] = each.mean(), _standard_error(each)
        table[f"{name}_pointwise"] = ("held_out_sequence", each)
    return table


def ordered_pit(
    probability: np.ndarray | xr.DataArray, tokens: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Randomised probability integral transform over characters ordered by their probability.

    The most probable character comes first. The transform is the probability of all that come
    before the one that came, plus a uniform share of its own (Czado, Gneiting & Held 2009,
    section 2): exactly uniform if characters are drawn from their forecasts. Large values are
    surprises, and too many of them over-confidence.

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
    came = np.take_along_axis(p, tokens, axis=-1)
    earlier = np.arange(p.shape[-1]) < tokens
    before = np.where((p > came) | ((p == came) & earlier), p, 0.0).sum(axis=-1)
    return np.clip(before + rng.random(came.shape[:-1]) * came[..., 0], 0.0, 1.0)


def _judged(p, tokens, rng, prob, edges, n_simulations):
    """Curve, calibration and PIT of one forecaster."""
    flat, came = p.reshape(-1, p.shape[-1]), tokens.ravel()
    bins = np.clip(np.searchsorted(edges, flat, side="right") - 1, 0, len(edges) - 2)
    n_bins, n = len(edges) - 1, len(flat)
    count = np.bincount(bins.ravel(), minlength=n_bins)
    mass = np.bincount(bins.ravel(), flat.ravel(), minlength=n_bins)
    observed = np.bincount(bins[np.arange(n), came], minlength=n_bins)
    simulated = _simulated_counts(flat, bins, n_bins, n_simulations, rng)
    lower, upper, band_p = _envelope(observed, simulated, prob)
    errors = 0.5 * abs(np.vstack([observed, simulated]) - mass).sum(axis=1) / n
    pit = ordered_pit(flat, came, rng)
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
            "ece_floor": errors[1:].mean(),
            "ece_upper": np.quantile(errors[1:], 0.95),
            "ece_p": (errors >= errors[0] * (1 - 1e-12)).mean(),
            "band_p": band_p,
            "pit_p": kstest(pit, "uniform").pvalue,
            "pit_mean": pit.mean(),
            "pit_mean_se": 1 / np.sqrt(12 * n),
        }
    )
    return curve, calibration, _pit_ecdf(pit, prob)


def _simulated_counts(p, bins, n_bins, n_simulations, rng):
    """Characters that come in each bin when outcomes are drawn from forecasts.

    ``p`` and ``bins`` are (place, token); returns (simulation, bin).
    """
    n, n_token = p.shape
    cdf = p.cumsum(axis=1) / p.sum(axis=1, keepdims=True)
    size = max(1, _AT_A_TIME // n)
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
    """Simultaneous band of counts, and the p-value of leaving it.

    Among all curves, the observed one included, the extremeness of one is its smallest rank from
    either end over the bins; equal counts have the larger rank, so that ties are not extreme.
    Curves of equal rank are ordered by their largest standardised deviation, or no p-value could
    be smaller than the share of curves that are the most extreme in some bin.
    """
    curves = np.vstack([observed, simulated])
    ordered = np.sort(curves, axis=0)
    n = len(curves)
    extreme = np.full(n, n)
    for k in range(curves.shape[1]):
        at_most = np.searchsorted(ordered[:, k], curves[:, k], side="right")
        at_least = n - np.searchsorted(ordered[:, k], curves[:, k], side="left")
        extreme = np.minimum(extreme, np.minimum(at_most, at_least))
    # The largest rank to which so few curves go out that the others are `prob` of all.
    going_out = np.searchsorted(np.sort(extreme), np.arange(1, n + 1), side="right")
    allowed = int((going_out <= (1 - prob) * n).sum())  # ranks up to it are outside
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


def _compared(each, names):
    table = xr.concat(each, names)
    for name in ("log_score", "brier"):
        pointwise = table[f"{name}_pointwise"]
        with np.errstate(invalid="ignore"):  # -inf less -inf
            difference = pointwise - pointwise.isel(fit=0)
        table[f"{name}_difference"] = difference.mean("held_out_sequence")
        errors = [_standard_error(row) for row in difference.values]
        table[f"{name}_difference_se"] = ("fit", np.array(errors))
    return table


def _by_position(p, tokens):
    log_prob = _log(np.take_along_axis(p, tokens[..., None], axis=-1)[..., 0])
    with np.errstate(invalid="ignore"):
        gain = log_prob - log_prob[:, :1]
    return xr.Dataset(
        {
            name: ("position", np.array(values))
            for name, values in (
                ("log_score", log_prob.mean(axis=0)),
                ("log_score_se", [_standard_error(column) for column in log_prob.T]),
                ("gain", gain.mean(axis=0)),
                ("gain_se", [_standard_error(column) for column in gain.T]),
            )
        },
        {"position": np.arange(tokens.shape[1])},
    )


def _standard_error(values):
    """Of a mean over sequences; unknown for a single one, or if it is infinite."""
    if len(values) < 2 or not np.isfinite(values).all():
        return np.nan
    return values.std(ddof=1) / np.sqrt(len(values))


def _log(probability):
    with np.errstate(divide="ignore"):
        return np.log(probability)


def _checked(name, forecast, tokens):
    p = np.asarray(forecast, dtype=float)
    if tokens.ndim != 2 or not tokens.size or p.shape[:-1] != tokens.shape:
        raise ValueError(
            f"forecasts of {name} must have shape (held_out_sequence, position, token) with "
            f"tokens (held_out_sequence, position), got {p.shape} and {tokens.shape}"
        )
    if not 0 <= tokens.min() <= tokens.max() < p.shape[-1]:
        raise ValueError(
            f"tokens must be in 0..{p.shape[-1] - 1}, got {tokens.min()} to {tokens.max()}"
        )
    totals = p.sum(axis=-1)
    if not (p >= 0).all() or abs(totals - 1).max() > 1e-6:
        raise ValueError(
            f"forecasts of {name} must be probabilities that sum to one, got a smallest of "
            f"{p.min():g} and sums of {totals.min():g} to {totals.max():g}"
        )
    return p


def _check_settings(forecasts, prob, edges, n_simulations):
    if not forecasts:
        raise ValueError("forecast_reliability needs at least one forecaster")
    if not 0 < prob < 1:
        raise ValueError(f"prob must be between 0 and 1, got {prob}")
    if len(edges) < 2 or edges[0] != 0 or edges[-1] != 1 or min(np.diff(edges)) <= 0:
        raise ValueError(f"edges must increase from 0 to 1, got {edges}")
    needed = round(20 / (1 - prob))  # so that the band's own noise is small
    if n_simulations < needed:
        raise ValueError(
            f"a band of {prob:g} needs at least {needed} simulations, got {n_simulations}"
        )
