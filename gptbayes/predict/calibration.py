"""Calibration of next-character probabilities.

Tests of calibration compare the observed characters with characters simulated from the forecasts
themselves, one at each position. The null hypothesis is that of sequential forecasts (Dawid 1984):
each character is drawn from its forecast, which is conditional on all text before it. Outcomes at
different positions are then independent given the forecasts. If a forecast is conditional on the
last few characters only, its errors may be correlated along the text, and the null distribution is
a little too narrow.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import arviz as az
import numpy as np
import xarray as xr

from gptbayes.findings import Finding
from gptbayes.inference import problem_of
from gptbayes.predict.calibration_findings import (
    calibration_findings,
    draws_findings,
    power_findings,
)
from gptbayes.predict.forecast_calibration import calibration_of_one
from gptbayes.predict.held_out import predictive_of_weights
from gptbayes.predict.scores import paired_scores, proper_scores, scores_by_position

BIN_EDGES = (0.0, 0.01, 0.03, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""Edges of the probability bins, finer near 0, where most characters of the vocabulary are."""
N_SIMULATIONS = 1000
"""Default number of simulated outcomes for each forecast."""


class Reliability(NamedTuple):
    """Calibration and scores of several fits.

    Attributes
    ----------
    curve : Dataset (fit, bin)
        The reliability curve. Each bin contains the pairs of a position and a character of the
        vocabulary whose predicted probability is between ``low`` (inclusive) and ``high``
        (exclusive, but 1 is in the last bin). ``count`` is the number of pairs, ``predicted``
        their mean probability, ``observed`` the fraction that occurred, and ``share`` the
        fraction of total probability in the bin. The simultaneous band ``lower`` to ``upper``
        contains the whole curve of a calibrated forecaster with probability ``prob`` (in
        ``attrs``); ``inside`` is True where the observed fraction is in the band. In empty bins
        ``predicted``, ``observed``, ``lower`` and ``upper`` are nan.
    calibration : Dataset (fit)
        ``ece``, the expected calibration error (see `forecast_reliability`); its mean
        ``ece_null_mean`` and 95 % quantile ``ece_null_q95`` under calibration, and the p-value
        ``ece_p``. ``band_p``, the p-value of the largest departure of the curve. ``pit_p``, the
        p-value of the PIT (Kolmogorov-Smirnov); ``pit_mean``, which is 0.5 under calibration,
        larger for over-confident and smaller for under-confident forecasts; and ``pit_mean_se``,
        its standard error under calibration.
    scores : Dataset (fit)
        As of `proper_scores`, with ``log_score_difference`` and ``brier_difference`` from the
        first fit and their paired standard errors ``log_score_difference_se`` and
        ``brier_difference_se``.
    pit : Dataset (fit, value)
        ``difference``, the ECDF of the PIT minus that of the uniform distribution, and the
        simultaneous band ``lower`` to ``upper`` with probability ``prob``.
    by_position : Dataset (fit, position)
        ``log_score`` and ``log_score_se``; ``gain`` over the first position, paired within
        sequences, and ``gain_se``; all in nats per character.
    findings : dict of str to list of gptbayes.findings.Finding
        Sentences about each fit, including warnings.
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
    forecasts: Mapping[str, xr.DataArray] | None = None,
    prob: float = 0.9,
    n_simulations: int = N_SIMULATIONS,
) -> Reliability:
    """Compute calibration and scores of posterior predictive probabilities of held-out text.

    The forecast of a character is the posterior mean of its probability given the characters
    before it in its sequence. For a posterior mode it is the plug-in forecast.

    Parameters
    ----------
    fits : mapping of str to InferenceData
        Fits with the same held-out windows. Differences of scores are from the first fit.
    rng : numpy.random.Generator
    weights : mapping of str to DataArray (chain, draw), optional
        As in `compare_held_out`.
    forecasts : mapping of str to DataArray (held_out_sequence, position, token), optional
        Probabilities of other forecasts, as of `dirichlet_multinomial`.
    prob, n_simulations
        As in `forecast_reliability`.

    Returns
    -------
    Reliability

    Raises
    ------
    ValueError
        If the fits have different held-out text, and as `forecast_reliability`.

    See Also
    --------
    forecast_reliability : The same for any forecasts.
    gptbayes.plots.plot_reliability : The figure.

    Examples
    --------
    Draws from the prior are expected to be poorly calibrated:

    >>> import tempfile
    >>> import gptbayes as gb
    >>> problem = gb.make_problem(gb.stage("01"), gb.zen_of_python(), batch_size=11)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     idata = gb.open_run(gb.fit.prior(problem, folder, draws=20))
    >>> found = held_out_reliability({"prior": idata}, np.random.default_rng(1))
    >>> found.findings["prior"][0].ok
    False
    """
    if not fits:
        raise ValueError("held_out_reliability needs at least one fit, got none")
    weights = dict(weights or {})
    unknown = [name for name in weights if name not in fits]
    if unknown:
        raise ValueError(f"weights must be for fits {', '.join(fits)}, got {unknown[0]}")
    tokens = [problem_of(idata).held_out.y for idata in fits.values()]
    if not all(np.array_equal(tokens[0], each) for each in tokens):
        raise ValueError(f"fits must have the same held-out text: {', '.join(fits)}")
    of_all = {**_predictive(fits, weights), **(forecasts or {})}
    found = forecast_reliability(of_all, tokens[0], rng, prob=prob, n_simulations=n_simulations)
    for name, idata in fits.items():
        found.findings[name] += draws_findings(idata, weights.get(name))
    return found


def forecast_reliability(
    forecasts: Mapping[str, xr.DataArray],
    tokens: np.ndarray,
    rng: np.random.Generator,
    *,
    prob: float = 0.9,
    edges: tuple[float, ...] = BIN_EDGES,
    n_simulations: int = N_SIMULATIONS,
) -> Reliability:
    """Compute calibration and scores of forecasts.

    Parameters
    ----------
    forecasts : mapping of str to DataArray (held_out_sequence, position, token)
        Probabilities, by name. Differences of scores are from the first.
    tokens : ndarray of int, (held_out_sequence, position)
        The characters that occurred, 0-based.
    rng : numpy.random.Generator
    prob : float
        Simultaneous coverage of the bands.
    edges : tuple of float
        Edges of the bins of the reliability curve, from 0 to 1. They do not depend on the
        forecasts, so that curves are comparable. Quantile bins would nearly all be close to 0.
    n_simulations : int
        Number of outcomes simulated from each forecast.

    Returns
    -------
    Reliability

    Raises
    ------
    ValueError
        If forecasts and tokens have different shapes, probabilities are negative or do not sum to
        one, or a setting is out of range.

    Notes
    -----
    *Band.* In each bin the number of characters that occurred is ranked among the simulated
    numbers, from below and from above. The band has the width in ranks for which a fraction
    ``prob`` of all curves lies inside in all bins (global envelope, Myllymäki et al. 2017).

    *Expected calibration error.* Half the sum over bins of the absolute difference between the
    observed and the expected number of characters, divided by the number of positions: the
    fraction of probability in the wrong bin. With two tokens it is the usual error of binary
    forecasts (Naeini et al. 2015) over both outcomes. It is positive even for calibrated
    forecasts; its null distribution is that over the simulated outcomes.

    *PIT.* See `ordered_pit`. Its band and p-value are those of Kolmogorov, exact for the sample
    size.

    *Tests.* p-values are ranks among simulated outcomes (Monte Carlo tests, Besag & Clifford
    1989): under calibration they are below alpha with probability at most alpha.

    Examples
    --------
    >>> rng = np.random.default_rng(1)
    >>> p = rng.dirichlet(np.ones(5), size=(40, 8))
    >>> tokens = (p.cumsum(axis=-1) < rng.random((40, 8, 1))).sum(axis=-1)
    >>> dims = ("held_out_sequence", "position", "token")
    >>> found = forecast_reliability({"right": xr.DataArray(p, dims=dims)}, tokens, rng)
    >>> found.findings["right"][0].ok
    True
    """
    _check_settings(forecasts, prob, edges, n_simulations)
    tokens = np.asarray(tokens)
    arrays = {name: _checked(name, each, tokens) for name, each in forecasts.items()}
    judged = [
        calibration_of_one(p, tokens, rng, prob, edges, n_simulations) for p in arrays.values()
    ]
    names = xr.DataArray(list(forecasts), dims="fit", name="fit")
    curve, calibration, pit = (xr.concat(part, names) for part in zip(*judged, strict=True))
    found = Reliability(
        curve.assign_attrs(prob=prob, n_character=tokens.size),
        calibration.assign_attrs(n_character=tokens.size, n_simulations=n_simulations),
        paired_scores([proper_scores(p, tokens) for p in arrays.values()], names),
        pit.assign_attrs(prob=prob, n_character=tokens.size),
        xr.concat([scores_by_position(p, tokens) for p in arrays.values()], names),
        {},
        power_findings(len(tokens), tokens.size),
    )
    found.findings.update(
        {name: calibration_findings(found, name, len(tokens)) for name in forecasts}
    )
    return found


def _predictive(fits, weights):
    """Forecasts of all fits; a fit that appears under several names is computed once."""
    names_of: dict[int, list[str]] = {}
    for name, idata in fits.items():
        names_of.setdefault(id(idata), []).append(name)
    found: dict[str, xr.DataArray] = {}
    for names in names_of.values():
        found |= predictive_of_weights(fits[names[0]], {n: weights.get(n) for n in names})
    return {name: found[name] for name in fits}


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
            f"forecasts of {name} must be probabilities that sum to one, got minimum "
            f"{p.min():g} and sums from {totals.min():g} to {totals.max():g}"
        )
    return p


def _check_settings(forecasts, prob, edges, n_simulations):
    if not forecasts:
        raise ValueError("forecast_reliability needs at least one forecast, got none")
    if not 0 < prob < 1:
        raise ValueError(f"prob must be between 0 and 1, got {prob}")
    if len(edges) < 2 or edges[0] != 0 or edges[-1] != 1 or min(np.diff(edges)) <= 0:
        raise ValueError(f"edges must increase from 0 to 1, got {edges}")
    needed = round(20 / (1 - prob))  # keeps the Monte Carlo error of the band small
    if n_simulations < needed:
        raise ValueError(
            f"n_simulations must be at least {needed} for prob {prob:g}, got {n_simulations}"
        )
