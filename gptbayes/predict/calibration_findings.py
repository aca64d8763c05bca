"""Calibration of forecasts in words, with warnings about the draws they rest on."""

from __future__ import annotations

import arviz as az
import numpy as np
import xarray as xr

from gptbayes.findings import FEW_CHARACTERS, Finding, few_sequences_finding
from gptbayes.predict.draw_weights import weights_warning
from gptbayes.stats.summary import convergence_of


def calibration_findings(found, name: str, n_sequence: int) -> list[Finding]:
    """What is to be said of one fit of a `gptbayes.predict.Reliability`.

    Parameters
    ----------
    found : gptbayes.predict.Reliability
    name : str
        The fit.
    n_sequence : int
        Held-out sequences.

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
    """Warnings about the amount of held-out text, which are the same for all fits.

    Parameters
    ----------
    n_sequence, n_character : int

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
    """Whether it is calibrated, in which way not, and where that is plainest."""
    # Two tests of one hypothesis: each at half the level.
    p = min(1.0, 2 * min(float(row["band_p"]), float(row["pit_p"])))
    if p >= 1 - prob:
        return Finding(True, f"no miscalibration seen ({_p_words(p)} of curve and PIT together)")
    z = (float(row["pit_mean"]) - 0.5) / float(row["pit_mean_se"])
    way = "miscalibrated in no clear direction"
    if abs(z) > 2:
        way = "over-confident" if z > 0 else "under-confident"
    outside = np.flatnonzero(~curve["inside"].values & (curve["count"].values > 0))
    words = f"{way} ({_p_words(p)})"
    if not outside.size:
        return Finding(False, words)
    off = abs(curve["observed"] - curve["predicted"]).values[outside]
    worst = curve.isel(bin=int(outside[off.argmax()]))
    return Finding(False, f"{words}: {_bin_words(worst, prob)}")


def _bin_words(row, prob):
    low, high = float(row["low"]), float(row["high"])
    what = f"{low:g} to {high:g}"
    if high == 1:
        what = f"{low:g} or more"
    elif low == 0:
        what = f"less than {high:g}"
    return (
        f"of the characters it gives {what}, {_percent(row['observed'])} came where "
        f"{_percent(row['predicted'])} should have ({100 * prob:.0f} % band "
        f"{_percent(row['lower'])} to {_percent(row['upper'])})"
    )


def _ece_words(row):
    return (
        f"expected calibration error {float(row['ece']):.3f}; a calibrated forecaster would show "
        f"{float(row['ece_floor']):.3f} on average and less than {float(row['ece_upper']):.3f} "
        f"in 95 % of cases ({_p_words(float(row['ece_p']))})"
    )


def _score_words(score, first, n_sequence):
    if not np.isfinite(score["log_score"]):
        return "it gave no probability at all to a character that came: its log score is -inf"
    words = f"log score {_with_error(score, 'log_score')} nats per character, Brier score "
    words += _with_error(score, "brier")
    if str(score["fit"].values) != first:
        words += f", {_with_error(score, 'log_score_difference', '+')} nats against {first}"
    if n_sequence < 2:
        words += "; one held-out sequence, standard errors are unknown"
    return words


def _with_error(score, name, sign=""):
    value, error = float(score[name]), float(score[f"{name}_se"])
    return f"{value:{sign}.3f} ± {error:.3f}" if np.isfinite(error) else f"{value:{sign}.3f}"


def _p_words(p):
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}"


def _percent(value):
    value = 100 * float(value)
    return f"{value:.0f} %" if value >= 9.95 or value == 0 else f"{value:.2g} %"


def draws_findings(idata: az.InferenceData, weights: xr.DataArray | None) -> list[Finding]:
    """Warnings about the draws that the forecasts are averages of.

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
        return [Finding(False, f"{warning}: the forecasts are those of a few draws")]
    if idata.attrs["method"] not in ("nuts", "smc") or idata.posterior.sizes["draw"] < 4:
        return []
    log_lik = idata.log_likelihood["log_lik"].sum("position")
    found = convergence_of("log densities of training sequences", log_lik)
    return [] if found.ok else [found]
