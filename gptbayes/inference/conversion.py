"""The contents of a run directory as groups of InferenceData."""

from __future__ import annotations

import json
from collections.abc import Iterable

import arviz as az
import numpy as np
import xarray as xr

from gptbayes.fit import Draws, n_units
from gptbayes.fit.resources import N_PRIOR_DRAWS
from gptbayes.groups import add_group, make_groups
from gptbayes.model.problem import Problem
from gptbayes.model.simulate import next_tokens, prior_draws
from gptbayes.model.stan_data import data_name, stan_data

_STATS = {
    "lp": "lp",
    "accept_stat": "acceptance_rate",
    "stepsize": "step_size",
    "treedepth": "tree_depth",
    "n_leapfrog": "n_steps",
    "divergent": "diverging",
    "energy": "energy",
}
_MASK_DIMS = {
    "attention": ("layer", "head", "query_position", "key_position"),
    "attention_output": ("layer", "embed"),
    "feed_forward": ("layer", "embed"),
}


def convert(config: dict, problem: Problem, draws: Iterable[Draws]) -> az.InferenceData:
    """Build InferenceData from the contents of a run directory.

    Parameters
    ----------
    config : dict
        As `gptbayes.fit.read_config` returns it.
    problem : Problem
    draws : iterable of Draws
        One item for each chain, path or start. Each is copied before the next is read.

    Returns
    -------
    arviz.InferenceData
    """
    units, stats, seconds, converged = _stack_units(draws, n_units(config))
    variables, sample_stats, attrs = _METHODS[config["method"]](units, stats)
    stage, design = problem.stage, problem.design
    groups = {
        "posterior": _dataset(
            stage.from_stan(variables, design),
            {p.name: p.dims for p in stage.parameters},
            _coords(problem),
        ),
        "sample_stats": _dataset(sample_stats, {}, {}),
        "log_likelihood": _dataset(
            {"log_lik": variables["log_lik"]},
            {"log_lik": ("sequence", "position")},
            _window_coords(problem, "training"),
        ),
        **_data_groups(problem),
        **_prior_groups(problem, config["seed"]),
    }
    if problem.n_new_tokens:
        groups["posterior_predictive"] = _dataset(
            {"new_tokens": variables["new_tokens"].astype(np.int64) - 1},
            {"new_tokens": ("new_position",)},
            {},
        )
    seconds = [] if config["method"] == "prior" else seconds
    if config["method"] == "optimize":
        attrs["converged_of_starts"] = json.dumps(converged)
    attrs = {**_attrs(config, problem), **attrs, "seconds": json.dumps(seconds)}
    idata = make_groups(groups, attrs)
    if config["method"] == "optimize":
        add_group(idata, "modes", _modes(problem, units))
    return idata


def _stack_units(draws, n_units):
    """Stack all units in arrays ``(unit, draw, ...)`` in C order; seconds and how each ended.

    Each unit is copied as it is read, so that one unit at a time is in memory twice.
    """
    variables: dict[str, np.ndarray] = {}
    stats: dict[str, np.ndarray] = {}
    seconds: list[float] = []
    converged = []
    for unit in draws:  # not enumerated: that would keep one while the next is read
        k = len(seconds)
        for arrays, values in ((variables, unit.variables), (stats, unit.method_variables)):
            for name, value in values.items():
                if k == 0:
                    arrays[name] = np.empty((n_units, *value.shape))
                arrays[name][k] = value
        seconds.append(unit.seconds)
        converged.append(unit.converged)
        del unit, values, value
    return variables, stats, seconds, converged


def _chains(variables, stats):
    named = {_STATS[name]: value for name, value in stats.items() if name in _STATS}
    if "tree_depth" in named:  # of NUTS only
        named["tree_depth"] = named["tree_depth"].astype(np.int64)
    named["n_steps"] = named["n_steps"].astype(np.int64)
    named["diverging"] = named["diverging"].astype(bool)
    return variables, named, {}


def _pathfinder(variables, stats):
    n_paths, n_draws = stats["lp"].shape
    stats = {name: stats[name].reshape(1, -1) for name in ("lp", "lp_approx")}
    path = np.repeat(np.arange(n_paths), n_draws)[None]
    joined = {n: v.reshape(1, n_paths * n_draws, *v.shape[2:]) for n, v in variables.items()}
    return joined, {**stats, "path": path}, {}


def _optimize(variables, stats):
    lps = stats["lp"][:, 0]
    best = int(np.argmax(lps))
    mode = {name: value[best : best + 1] for name, value in variables.items()}
    return mode, {"lp": stats["lp"][best : best + 1]}, {"lp_of_starts": json.dumps(lps.tolist())}


def _modes(problem, units):
    """The modes of all starts, as the draws of one chain."""
    stage = problem.stage
    values = {
        name: np.swapaxes(value, 0, 1)  # (start, 1, ...) -> (1, start, ...)
        for name, value in stage.from_stan(units, problem.design).items()
    }
    return _dataset(values, {p.name: p.dims for p in stage.parameters}, _coords(problem))


def _prior(variables, stats):
    return variables, {"lp": stats["lp"]}, {}


_METHODS = {
    "nuts": _chains,
    "hmc": _chains,
    "pathfinder": _pathfinder,
    "optimize": _optimize,
    "prior": _prior,
    "smc": _chains,
}


def _data_groups(problem):
    x, y = problem.training
    dims = ("sequence", "position")
    coords = _window_coords(problem, "training")
    held_out = {
        f"held_out_{name}": (("held_out_sequence", "position"), tokens)
        for name, tokens in problem.held_out._asdict().items()
    }
    priors = {
        data_name(p.name if p.prior == "normal" else p.family): (
            (),
            getattr(problem.priors, p.family),
        )
        for p in problem.stage.parameters
    }
    masks = problem.stage.masks._asdict() if problem.stage.masks else {}
    mask_data = {f"{name}_mask": (_MASK_DIMS[name], mask) for name, mask in masks.items()}
    return {
        "observed_data": xr.Dataset({"y": (dims, y)}, coords),
        "constant_data": xr.Dataset({"x": (dims, x), **held_out, **priors, **mask_data}, coords),
    }


def _prior_groups(problem, seed):
    rng = np.random.default_rng([seed, 1])
    draws = {n: v[None] for n, v in prior_draws(problem, N_PRIOR_DRAWS, rng).items()}
    dims = {p.name: p.dims for p in problem.stage.parameters}
    window_dims = ("sequence", "position")
    coords = _window_coords(problem, "training")
    y = next_tokens(problem.stage, draws, problem.training.x, rng)
    return {
        "prior": _dataset(draws, dims, _coords(problem)),
        "prior_predictive": _dataset({"y": y}, {"y": window_dims}, coords),
    }


def _attrs(config, problem):
    weight = problem.likelihood_weight
    posterior = "posterior" if weight == 1 else f"power posterior, weight {weight:g}"
    return {
        "stage": config["stage"],
        "stage_name": problem.stage.name,
        "method": config["method"],
        "target": "prior" if weight == 0 else posterior,
        "source": problem.source,
        "likelihood_weight": weight,
        "seed": config["seed"],
        "kernels": config.get("kernels", without_kernels(config["method"])),
        "settings": json.dumps(config["settings"]),
        "versions": json.dumps(config.get("versions", {})),
        "characters": json.dumps(list(problem.vocabulary.characters)),
        "stan_data": json.dumps(stan_data(problem)),
    }


def _coords(problem):
    sizes = problem.stage.sizes(problem.design)
    coords = {dim: np.arange(size) for dim, size in sizes.items() if dim != "token"}
    return {**coords, "token": np.array(problem.vocabulary.characters, dtype=object)}


def _window_coords(problem, which):
    windows = getattr(problem, which)
    return {
        dim: np.arange(n) for dim, n in zip(("sequence", "position"), windows.x.shape, strict=True)
    }


def _dataset(values, dims, coords):
    """A dataset of variables ``(chain, draw, *dims)``."""
    variables = {n: (("chain", "draw", *dims.get(n, ())), v) for n, v in values.items()}
    used = {dim for names, _ in variables.values() for dim in names}
    n_chain, n_draw = next(iter(values.values())).shape[:2]
    coords = {dim: values for dim, values in coords.items() if dim in used}
    return xr.Dataset(variables, {"chain": range(n_chain), "draw": range(n_draw), **coords})


def without_kernels(method: str | None) -> str:
    """Name the implementation of the likelihood in a run of a version that did not record it.

    Parameters
    ----------
    method : str or None

    Returns
    -------
    {"numpy", "stan"}
    """
    return "numpy" if method == "prior" else "stan"
