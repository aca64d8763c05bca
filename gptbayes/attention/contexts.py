"""Checks and labels that all summaries of attention share."""

from __future__ import annotations

import arviz as az
import numpy as np
import xarray as xr

from gptbayes.inference import parameters_of, problem_of
from gptbayes.model.problem import Problem
from gptbayes.stats.summary import OVER

SOURCES = ("posterior", "prior")
"""Groups of InferenceData that are compared, in this order."""
COPIES = 4
"""Approximate number of arrays of the size of the attention weights that a summary holds."""


def problem_with_attention(idata: az.InferenceData) -> Problem:
    """Return the problem of a fit whose stage has attention.

    Parameters
    ----------
    idata : InferenceData

    Returns
    -------
    Problem

    Raises
    ------
    ValueError
        If the stage has no attention, as stages 01 to 03.
    """
    problem = problem_of(idata)
    if "attention" not in problem.stage.features:
        raise ValueError(
            f"stage must be one of 04 to 12, which have attention, got {problem.stage.number}"
        )
    return problem


def draws_of(idata: az.InferenceData, group: str) -> dict[str, np.ndarray]:
    """Return the parameters of posterior or prior draws.

    Parameters
    ----------
    idata : InferenceData
    group : {"posterior", "prior"}

    Returns
    -------
    dict of str to ndarray, (chain, draw, ...)

    Raises
    ------
    ValueError
        If ``group`` is neither "posterior" nor "prior".
    """
    if group not in SOURCES:
        raise ValueError(f"group must be one of {', '.join(SOURCES)}, got {group!r}")
    return parameters_of(idata, group)


def checked_contexts(problem: Problem, contexts: np.ndarray) -> np.ndarray:
    """Return contexts as an array of tokens.

    Parameters
    ----------
    problem : Problem
    contexts : ndarray of int, (sequence, position)
        0-based tokens.

    Returns
    -------
    ndarray of int, (sequence, position)

    Raises
    ------
    ValueError
        If the shape is another, there are no contexts, or they are longer than ``block_size``.
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
    """Return the coordinates of attention weights: texts and positions.

    Parameters
    ----------
    problem : Problem
    contexts : ndarray of int, (sequence, position)

    Returns
    -------
    dict
        For `xarray.DataArray.assign_coords`.
    """
    positions = np.arange(contexts.shape[1])
    text = [problem.vocabulary.decode(context) for context in contexts]
    return {"text": ("sequence", text), "query_position": positions, "key_position": positions}


def labelled(idata: az.InferenceData, group: str, values: np.ndarray, *dims: str) -> xr.DataArray:
    """Label values of each draw with chains and draws.

    Parameters
    ----------
    idata : InferenceData
    group : {"posterior", "prior"}
    values : ndarray, (chain, draw, ...)
    *dims : str
        Names of the dims after chain and draw.

    Returns
    -------
    DataArray (chain, draw, ...)
    """
    coords = {name: idata[group][name].values for name in OVER}
    return xr.DataArray(values, dims=(*OVER, *dims), coords=coords)
