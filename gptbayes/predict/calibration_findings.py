"""Sentences about the calibration of forecasts, and warnings about their draws."""

from __future__ import annotations

import arviz as az
import numpy as np
import xarray as xr

from gptbayes.findings import (
    EFFECTIVE_DRAWS_LIMIT,
    FEW_CHARACTERS,
    Finding,
    few_sequences_finding,
    plus_minus,
)
from gptbayes.inference import CHAINS
from gptbayes.predict.draw_weights import weights_warning
from gptbayes.stats.summary import convergence_of


def calibration_findings(found, name: str, n_sequence: int) -> list[Finding]:
    """State calibration and scores of one fit.

    Parameters
    ----------
    found : gptbayes.predict.Reliability
    name : str
        The fit.
    n_sequence : int
        Number of held-out sequences.

    Returns
    -------
    list of gptbayes.findings.Finding
        A warning if the fit is miscalibrated or its log score is not finite.
    """
    curve, row = found.curve.sel(fit=name), found.calibration.sel(fit=name)
    score = found.scores.sel(fit=name)
    said = [
        _verdict(curve, row, found.curve.attrs["prob"]),
        Finding(True, _ece_words(row)),
        Finding(
            bool(np.isfinite(score["log_score"])),
            _score_words(score, str(found.curve["fit"].values[0]), n_sequence),
        ),
    ]
    return said


def power_findings(n_sequence: int, n_character: int) -> list[Finding]:
    """Warn of too little held-out text, which is the same for all fits.

    Parameters
    ----------
    n_sequence, n_character : int
        Numbers of held-out sequences and characters.

    Returns
    -------
    list of gptbayes.findings.Finding
    """
    found = []
    if n_character < FEW_CHARACTERS:
        text = f"only {n_character} held-out characters: tests of calibration have little power"
        found.append(Finding(False, text))
    few = few_sequences_finding(n_sequence)
    return [*found, few] if few else found


def _verdict(curve, row, prob):
    """Whether a fit is calibrated, the direction of miscalibration, and the worst bin."""
    # Two tests of one hypothesis: each at half the level.
    p = min(1.0, 2 * min(float(row["band_p"]), float(row["pit_p"])))
    if p >= 1 - prob:
        return Finding(True, f"no evidence of miscalibration ({_p_words(p)} for curve and PIT)")
    z = (float(row["pit_mean"]) - 0.5) / float(row["pit_mean_se"])
    direction = "miscalibrated in no clear direction"
    if abs(z) > 2:
        direction = "over-confident" if z > 0 else "under-confident"
    outside = np.flatnonzero(~curve["inside"].values & (curve["count"].values > 0))
    words = f"{direction} ({_p_words(p)})"
    if not outside.size:
        return Finding(False, words)
    off = abs(curve["observed"] - curve["predicted"]).values[outside]
    worst = curve.isel(bin=int(outside[off.argmax()]))
    return Finding(False, f"{words}: {_bin_words(worst, prob)}")


def _bin_words(row, prob):
    low, high = float(row["low"]), float(row["high"])
    interval = f"of {low:g} to {high:g}"
    if high == 1:
        interval = f"of {low:g} or more"
    elif low == 0:
        interval = f"below {high:g}"
    return (
        f"of the characters with a predicted probability {interval}, {_percent(row['observed'])} "
        f"occurred and {_percent(row['predicted'])} were expected ({100 * prob:.0f} % band "
        f"{_percent(row['lower'])} to {_percent(row['upper'])})"
    )


def _ece_words(row):
    return (
        f"expected calibration error {float(row['ece']):.3f}; under calibration its mean is "
        f"{float(row['ece_null_mean']):.3f} and its 95 % quantile "
        f"{float(row['ece_null_q95']):.3f} ({_p_words(float(row['ece_p']))})"
    )


def _score_words(score, first, n_sequence):
    if not np.isfinite(score["log_score"]):
        return "a character that occurred had probability 0: the log score is -inf"
    words = f"log score {_with_error(score, 'log_score')} nats per character, Brier score "
    words += _with_error(score, "brier")
    if str(score["fit"].values) != first:
        words += f", {_with_error(score, 'log_score_difference', '+')} nats compared with {first}"
    if n_sequence < 2:
        words += "; standard errors are unknown for a single held-out sequence"
    return words


def _with_error(score, name, sign="-"):
    return plus_minus(score[name], score[f"{name}_se"], 3, sign=sign)


def _p_words(p):
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}"


def _percent(value):
    value = 100 * float(value)
    return f"{value:.0f} %" if value >= 9.95 or value == 0 else f"{value:.2g} %"


def draws_findings(idata: az.InferenceData, weights: xr.DataArray | None) -> list[Finding]:
    """Warn of draws whose averages are unreliable forecasts.

    Parameters
    ----------
    idata : InferenceData
    weights : DataArray (chain, draw), optional

    Returns
    -------
    list of gptbayes.findings.Finding
    """
    warning = weights_warning(weights)
    if warning:
        return [Finding(False, f"{warning}: the forecasts rest on a few draws")]
    if idata.attrs["method"] not in CHAINS:
        n = idata.posterior.sizes["chain"] * idata.posterior.sizes["draw"]
        if idata.attrs["method"] == "optimize" or n >= EFFECTIVE_DRAWS_LIMIT:
            return []
        text = f"the forecasts are means over {n} draw{'s' if n > 1 else ''}: with more they change"
        return [Finding(False, text)]
    log_lik = idata.log_likelihood["log_lik"].sum("position", skipna=False)
    found = convergence_of("log densities of training sequences", log_lik)
    return [] if found.ok else [found]
