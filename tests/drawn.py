"""InferenceData of draws that were made and not fitted, for what needs no Stan."""

from __future__ import annotations

import json

import arviz as az
import numpy as np
import xarray as xr

from gptbayes.simulate import prior_draws
from gptbayes.standata import Problem, stan_data


def drawn(problem: Problem, posterior: dict[str, np.ndarray], prior=None) -> az.InferenceData:
    """InferenceData whose groups hold these parameters, each ``(chain, draw, dims)``.

    The prior is by default 50 draws from it.
    """
    if prior is None:
        draws = prior_draws(problem, 50, np.random.default_rng(7))
        prior = {name: value[None] for name, value in draws.items()}
    groups = {"posterior": posterior, "prior": prior}
    idata = az.InferenceData(**{name: _group(problem, each) for name, each in groups.items()})
    idata.attrs = {
        "stage": problem.stage.number,
        "source": problem.source,
        "characters": json.dumps(list(problem.vocabulary.characters)),
        "stan_data": json.dumps(stan_data(problem)),
    }
    return idata


def from_prior(problem: Problem, chains: int, draws: int, seed: int = 1) -> dict[str, np.ndarray]:
    """Prior draws in the shape of a posterior's, ``(chain, draw, dims)``."""
    values = prior_draws(problem, chains * draws, np.random.default_rng(seed))
    return {name: v.reshape(chains, draws, *v.shape[1:]) for name, v in values.items()}


def _group(problem, parameters):
    dims = {p.name: ("chain", "draw", *p.dims) for p in problem.stage.parameters}
    chains, draws = parameters["token_embedding"].shape[:2]
    values = {name: (dims[name], value) for name, value in parameters.items()}
    return xr.Dataset(values, {"chain": range(chains), "draw": range(draws)})
