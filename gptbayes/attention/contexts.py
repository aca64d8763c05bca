"""Contexts whose attention is looked at, and draws to look at them with."""

from __future__ import annotations

import arviz as az
import numpy as np
import xarray as xr

from gptbayes.inference import parameters_of, problem_of
from gptbayes.model.problem import Problem
from gptbayes.stats.summary import OVER

SOURCES = ("posterior", "prior")
"""Groups of InferenceData that are shown side by side, in this order."""
COPIES = 4
"""Arrays of the size of the attention weights that are held while these are summarised, about."""


def problem_with_attention(idata: az.InferenceData) -> Problem:
    """The problem of a fit, if its stage has attention.

    Raises
    ------
    ValueError
        For stages 01 to 03.
    """
    problem = problem_of(idata)
    if "attention" not in problem.stage.features:
        raise ValueError(f"stage {problem.stage.number} has no attention, stages 04 to 12 have")
    return problem


def draws_of(idata: az.InferenceData, group: str) -> dict[str, np.ndarray]:
    """Parameters of the posterior or the prior, arrays ``(chain, draw, ...)``.

    Raises
    ------
    ValueError
        If ``group`` is neither.
    """
    if group not in SOURCES:
        raise ValueError(f"group must be one of {', '.join(SOURCES)}, got {group!r}")
    return parameters_of(idata, group)


def checked_contexts(problem: Problem, contexts: np.ndarray) -> np.ndarray:
    """Contexts as an array of tokens.

    Raises
    ------
    ValueError
        If they are not ``(sequence, position)``, none, or longer than the model can read.
    """
    contexts = np.asarray(contexts)
    longest = problem.design.block_size
    if contexts.ndim != 2 or not contexts.size or contexts.shape[1] > longest:
        raise ValueError(
            "contexts must be tokens (sequence, position) with at least one sequence of 1 to "
            f"{longest} positions, got shape {contexts.shape}"
        )
    return contexts


def context_coords(problem: Problem, contexts: np.ndarray) -> dict:
    """Coordinates of maps of attention: what is read, and where."""
    places = np.arange(contexts.shape[1])
    text = [problem.vocabulary.decode(context) for context in contexts]
    return {"text": ("sequence", text), "query_position": places, "key_position": places}


def labelled(idata: az.InferenceData, group: str, values: np.ndarray, *dims: str) -> xr.DataArray:
    """Values of every draw, ``(chain, draw, *dims)``, with the chains and draws they are of."""
    coords = {name: idata[group][name].values for name in OVER}
    return xr.DataArray(values, dims=(*OVER, *dims), coords=coords)
