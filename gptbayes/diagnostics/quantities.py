"""The quantities whose convergence is diagnosed: weights, invariants, predictions.

Weights are diagnosed raw, aligned, and through what they predict, side by side: the posterior is
invariant under a large group of symmetries, R-hat of raw weights measures the position on its
orbits, and only R-hat of predictions and of invariants measures convergence.
"""

from __future__ import annotations

import arviz as az
import numpy as np
import xarray as xr

from gptbayes.inference import parameters_of, problem_of
from gptbayes.symmetry import align, invariant_scalars, symmetries


def quantities(idata: az.InferenceData) -> dict[str, xr.DataArray]:
    """Weights, invariants and predictions of every draw.

    Parameters
    ----------
    idata : InferenceData

    Returns
    -------
    dict of str to DataArray (chain, draw, scalar)
        "raw weights"; "aligned weights" where the stage has symmetries; "invariants", which no
        symmetry changes; and those of `predicted_quantities`.
    """
    problem = problem_of(idata)
    parameters = parameters_of(idata)
    found = {"raw weights": _columns(parameters.values())}
    if symmetries(problem.stage):
        aligned = align(problem.stage, parameters).parameters
        found["aligned weights"] = _columns(aligned.values())
    parts = invariant_scalars(problem, parameters).values()
    found["invariants"] = _columns([part.values for part in parts])
    return {**found, **predicted_quantities(idata)}


def predicted_quantities(idata: az.InferenceData) -> dict[str, xr.DataArray]:
    """Log probabilities of the training characters and the log posterior, of every draw.

    Parameters
    ----------
    idata : InferenceData

    Returns
    -------
    dict of str to DataArray (chain, draw, scalar)
        "log probabilities" and "log posterior", nats.
    """
    return {
        "log probabilities": _columns([idata.log_likelihood["log_lik"].values]),
        "log posterior": _columns([idata.sample_stats["lp"].values[..., None]]),
    }


def _columns(arrays):
    flat = [np.asarray(a).reshape(*np.shape(a)[:2], -1) for a in arrays]
    return xr.DataArray(np.concatenate(flat, axis=-1), dims=("chain", "draw", "scalar"))
