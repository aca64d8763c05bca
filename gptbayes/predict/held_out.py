"""Predictive density of text that was held out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import arviz as az
import numpy as np
import xarray as xr

from gptbayes.forward import token_log_prob
from gptbayes.inference import parameters_of, problem_of
from gptbayes.standata import Problem
from gptbayes.summary import log_mean_exp, summarise


class Comparison(NamedTuple):
    """How well fits predict held-out text, each against the first.

    Attributes
    ----------
    table : Dataset (fit)
        ``elpd`` is the sum over held-out sequences of the log predictive density, in nats, and
        ``se`` its standard error over sequences; ``per_character`` and ``per_character_se`` are
        both divided by the number of characters; ``difference`` is to the first fit, with
        ``difference_se`` from paired differences; ``mcse`` is the Monte Carlo error of ``elpd``.
    pointwise : DataArray (fit, held_out_sequence)
        In nats.
    """

    table: xr.Dataset
    pointwise: xr.DataArray


def held_out_log_prob(idata: az.InferenceData) -> xr.DataArray:
    """Log probability of every held-out character, for every draw.

    Parameters
    ----------
    idata : InferenceData

    Returns
    -------
    DataArray (chain, draw, held_out_sequence, position)
        In nats.
    """
    problem = problem_of(idata)
    values = token_log_prob(problem.stage, parameters_of(idata), problem.held_out)
    dims = ("chain", "draw", "held_out_sequence", "position")
    coords = {name: idata.posterior[name] for name in ("chain", "draw")}
    return xr.DataArray(values, dims=dims, coords=coords, name="log_prob")


def fixed_contexts(problem: Problem, n: int = 16) -> np.ndarray:
    """Contexts of full length from held-out text, evenly spread, to compare predictions at.

    Parameters
    ----------
    problem : Problem
    n : int
        At most so many, all different.

    Returns
    -------
    ndarray of int, (context, position)
    """
    rows = np.unique(problem.held_out.x, axis=0, return_index=True)[1]
    chosen = np.unique(np.linspace(0, len(rows) - 1, min(n, len(rows))).astype(int))
    return problem.held_out.x[np.sort(rows)[chosen]]


def compare_held_out(fits: Mapping[str, az.InferenceData]) -> Comparison:
    """Compare fits by the log predictive density of the same held-out sequences.

    The unit is the sequence: log of the posterior mean of the probability of all its characters.

    Parameters
    ----------
    fits : mapping of str to InferenceData
        Of the same text and windows; the first is what the others are compared to.

    Returns
    -------
    Comparison

    Raises
    ------
    ValueError
        If there are no fits or the fits have different held-out text.
    """
    if not fits:
        raise ValueError("compare_held_out needs at least one fit")
    windows = [problem_of(idata).held_out for idata in fits.values()]
    if not all(np.array_equal(windows[0].y, each.y) for each in windows):
        raise ValueError(f"fits must have the same held-out text: {', '.join(fits)}")
    densities = {name: held_out_log_prob(idata).sum("position") for name, idata in fits.items()}
    names = xr.DataArray(list(fits), dims="fit", name="fit")
    pointwise = xr.concat([log_mean_exp(each) for each in densities.values()], names)
    n_sequence, n_position = windows[0].y.shape
    difference = pointwise - pointwise.isel(fit=0)
    n_characters = n_sequence * n_position
    table = xr.Dataset(
        {
            "elpd": pointwise.sum("held_out_sequence"),
            "se": _sum_se(pointwise),
            "per_character": pointwise.sum("held_out_sequence") / n_characters,
            "per_character_se": _sum_se(pointwise) / n_characters,
            "difference": difference.sum("held_out_sequence"),
            "difference_se": _sum_se(difference),
            "mcse": xr.concat([_log_mean_mcse(each) for each in densities.values()], names),
        },
        attrs={"n_sequence": n_sequence, "n_character": n_characters},
    )
    return Comparison(table, pointwise)


def unigram_log_density(idata: az.InferenceData) -> tuple[float, float]:
    """A yardstick: held-out log density per character of smoothed character frequencies.

    Returns
    -------
    tuple of float
        Nats per character, and its standard error over sequences. Frequencies of the training
        targets plus one per character of the vocabulary.
    """
    problem = problem_of(idata)
    counts = np.bincount(problem.training.y.ravel(), minlength=problem.design.vocab_size) + 1
    per_sequence = np.log(counts / counts.sum())[problem.held_out.y].sum(axis=1)
    n_sequence, n_position = problem.held_out.y.shape
    se = per_sequence.std(ddof=1) / np.sqrt(n_sequence) if n_sequence > 1 else np.nan
    return per_sequence.mean() / n_position, se / n_position


def _sum_se(pointwise):
    n = pointwise.sizes["held_out_sequence"]
    if n < 2:
        return xr.full_like(pointwise.isel(held_out_sequence=0), np.nan)
    return pointwise.std("held_out_sequence", ddof=1) * np.sqrt(n)


def _log_mean_mcse(log_density):
    """Monte Carlo error of the sum over sequences of the log of a mean over draws.

    Delta method: the sum of the logs moves like the mean over draws of the sum of the densities,
    each relative to its own mean, which keeps the dependence between sequences.
    """
    if log_density.sizes["draw"] < 4:
        return xr.DataArray(np.nan)
    relative = np.exp(log_density - log_mean_exp(log_density)).sum("held_out_sequence")
    return summarise(relative)["mcse_mean"]
