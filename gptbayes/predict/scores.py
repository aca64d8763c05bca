"""Proper scores of next-character probabilities.

Standard errors, and those of paired differences, are over sequences.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr

from gptbayes.stats.standard_error import standard_error


def proper_scores(probability: np.ndarray | xr.DataArray, tokens: np.ndarray) -> xr.Dataset:
    """Compute proper scores of forecasts (Gneiting & Raftery 2007).

    Parameters
    ----------
    probability : ndarray or DataArray, (held_out_sequence, position, token)
    tokens : ndarray of int, (held_out_sequence, position)
        The characters that occurred, 0-based.

    Returns
    -------
    Dataset (held_out_sequence)
        ``log_score``, the mean log probability of the characters that occurred, in nats (larger
        is better), -inf if one of them had probability 0. ``brier``, the mean of Σ_k (p_k - o_k)²
        (Brier 1950), from 0 to 2 (smaller is better). ``log_score_se`` and ``brier_se``, standard
        errors over sequences, nan for a single sequence. ``log_score_pointwise`` and
        ``brier_pointwise`` (held_out_sequence), means over the characters of each sequence.
    """
    p, tokens = np.asarray(probability), np.asarray(tokens)
    p_observed = np.take_along_axis(p, tokens[..., None], axis=-1)[..., 0]
    brier = (p**2).sum(axis=-1) - 2 * p_observed + 1
    terms = {"log_score": _log(p_observed).mean(axis=-1), "brier": brier.mean(axis=-1)}
    table = xr.Dataset()
    for name, each in terms.items():
        table[name], table[f"{name}_se"] = each.mean(), standard_error(each)
        table[f"{name}_pointwise"] = ("held_out_sequence", each)
    return table


def paired_scores(scores: Sequence[xr.Dataset], names: xr.DataArray) -> xr.Dataset:
    """Combine the scores of several fits, with paired differences from the first.

    Parameters
    ----------
    scores : sequence of Dataset (held_out_sequence)
        As of `proper_scores`.
    names : DataArray (fit)

    Returns
    -------
    Dataset (fit, held_out_sequence)
        The scores, with ``log_score_difference``, ``brier_difference`` and their standard errors
        ``log_score_difference_se`` and ``brier_difference_se``.
    """
    table = xr.concat(scores, names)
    for name in ("log_score", "brier"):
        pointwise = table[f"{name}_pointwise"]
        with np.errstate(invalid="ignore"):  # -inf minus -inf
            difference = pointwise - pointwise.isel(fit=0)
        table[f"{name}_difference"] = difference.mean("held_out_sequence")
        errors = standard_error(difference.values, axis=1)
        table[f"{name}_difference_se"] = ("fit", errors)
    return table


def scores_by_position(probability: np.ndarray, tokens: np.ndarray) -> xr.Dataset:
    """Compute the mean log score at each position, and the gain over the first position.

    Parameters
    ----------
    probability : ndarray, (held_out_sequence, position, token)
    tokens : ndarray of int, (held_out_sequence, position)
        The characters that occurred, 0-based.

    Returns
    -------
    Dataset (position)
        ``log_score`` and ``gain``, paired within sequences, in nats per character, and their
        standard errors ``log_score_se`` and ``gain_se``.
    """
    log_prob = _log(np.take_along_axis(probability, tokens[..., None], axis=-1)[..., 0])
    with np.errstate(invalid="ignore"):
        gain = log_prob - log_prob[:, :1]
    return xr.Dataset(
        {
            name: ("position", np.array(values))
            for name, values in (
                ("log_score", log_prob.mean(axis=0)),
                ("log_score_se", standard_error(log_prob, axis=0)),
                ("gain", gain.mean(axis=0)),
                ("gain_se", standard_error(gain, axis=0)),
            )
        },
        {"position": np.arange(tokens.shape[1])},
    )


def _log(probability):
    with np.errstate(divide="ignore"):
        return np.log(probability)
