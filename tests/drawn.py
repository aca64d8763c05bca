"""InferenceData of draws that were made and not fitted, for what needs no Stan."""

from __future__ import annotations

import json

import arviz as az
import numpy as np
import xarray as xr

from gptbayes.groups import make_groups
from gptbayes.model.problem import Problem
from gptbayes.model.simulate import prior_draws
from gptbayes.model.stan_data import stan_data


def drawn(problem: Problem, posterior: dict[str, np.ndarray], prior=None) -> az.InferenceData:
    """InferenceData whose groups hold these parameters, each ``(chain, draw, dims)``.

    The prior is by default 50 draws from it.
    """
    if prior is None:
        draws = prior_draws(problem, 50, np.random.default_rng(7))
        prior = {name: value[None] for name, value in draws.items()}
    groups = {"posterior": posterior, "prior": prior}
    return make_groups(
        {name: _group(problem, each) for name, each in groups.items()}, attrs_of(problem)
    )


def attrs_of(problem: Problem) -> dict[str, str]:
    """The attributes from which `gptbayes.inference.problem_of` rebuilds the problem."""
    return {
        "stage": problem.stage.number,
        "source": problem.source,
        "characters": json.dumps(list(problem.vocabulary.characters)),
        "stan_data": json.dumps(stan_data(problem)),
    }


def from_prior(problem: Problem, chains: int, draws: int, seed: int = 1) -> dict[str, np.ndarray]:
    """Prior draws in the shape of a posterior's, ``(chain, draw, dims)``."""
    values = prior_draws(problem, chains * draws, np.random.default_rng(seed))
    return {name: v.reshape(chains, draws, *v.shape[1:]) for name, v in values.items()}


def _group(problem, parameters):
    dims = {p.name: ("chain", "draw", *p.dims) for p in problem.stage.parameters}
    chains, draws = parameters["token_embedding"].shape[:2]
    values = {name: (dims[name], value) for name, value in parameters.items()}
    return xr.Dataset(values, {"chain": range(chains), "draw": range(draws)})


def with_heads_permuted(parameters: dict[str, np.ndarray], order: np.ndarray) -> dict:
    """The same models with their heads in another order, of stages 05 and 12.

    ``order`` is (chain, draw, layer, head); in stage 05 the head of the model reads them, in 12
    the projection does.
    """
    moved = dict(parameters)
    for name in ("key", "query", "value"):  # (..., L, H, C, h)
        moved[name] = np.take_along_axis(parameters[name], order[..., None, None], axis=-3)
    if "sa_proj_multiplier" in parameters:  # (..., L, C, H, h)
        index = order[..., None, :, None]
        moved["sa_proj_multiplier"] = np.take_along_axis(
            parameters["sa_proj_multiplier"], index, axis=-2
        )
        return moved
    readers = parameters["lm_head_multiplier"]  # (..., V, C)
    n_head = order.shape[-1]
    blocks = readers.reshape(*readers.shape[:-1], n_head, -1)
    blocks = np.take_along_axis(blocks, order[..., 0, None, :, None], axis=-2)
    return {**moved, "lm_head_multiplier": blocks.reshape(readers.shape)}


def planted(problem: Problem, chains: int = 2, draws: int = 10, seed: int = 1) -> dict:
    """Draws of stage 05, T = 5, C = 6 as 3 heads of 2, whose heads are known, in the order of all.

    Head 0 looks at itself, head 1 at the previous character, head 2 everywhere alike. Only head 1
    passes anything on: the previous character, which is what the model then predicts. Positions
    are points on a circle (coordinates 0 and 1), characters on another (2 and 3).
    """
    design, rng = problem.design, np.random.default_rng(seed)
    angle = np.pi / 5 * np.arange(design.block_size)
    character = 2 * np.pi * np.arange(design.vocab_size) / design.vocab_size
    turn = np.array([[np.cos(angle[1]), -np.sin(angle[1])], [np.sin(angle[1]), np.cos(angle[1])]])
    one = {
        "token_embedding": np.zeros((design.vocab_size, 6)),
        "position_embedding": np.zeros((design.block_size, 6)),
        **{name: np.zeros((1, 3, 6, 2)) for name in ("key", "query", "value")},
        "lm_head_multiplier": np.zeros((design.vocab_size, 6)),
        "lm_head_offset": np.zeros(design.vocab_size),
    }
    one["position_embedding"][:, :2] = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    one["token_embedding"][:, 2:4] = np.stack([np.cos(character), np.sin(character)], axis=1)
    one["key"][0, :2, :2] = np.eye(2)
    one["query"][0, :2, :2] = 600 * np.stack([np.eye(2), turn])
    one["value"][0, 1, 2:4] = np.eye(2)
    one["lm_head_multiplier"][:, 2:4] = 20 * one["token_embedding"][:, 2:4]
    many = {name: np.tile(v, (chains, draws, *(1,) * v.ndim)) for name, v in one.items()}
    # A little noise where it does not matter, so that draws differ.
    many["lm_head_offset"] += 0.1 * rng.normal(size=many["lm_head_offset"].shape)
    return many
