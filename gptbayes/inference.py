"""Convert run directories to ArviZ InferenceData with named dims and coords.

All later modules work with InferenceData of any method. Only ``idata.attrs`` records which method
was run. Imports `gptbayes.model` and `gptbayes.fit`.
"""

from __future__ import annotations

import functools
import io
import json
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

import arviz as az
import h5py
import numpy as np
import xarray as xr

from gptbayes.files import remove_leftovers, replacing
from gptbayes.fit import (
    Draws,
    Level,
    iter_draws,
    levels_of,
    n_units,
    read_config,
    read_problem,
    start_of_chain,
)
from gptbayes.fit.resources import N_PRIOR_DRAWS
from gptbayes.fit.tempering import between_share
from gptbayes.groups import (
    add_group,
    content_digest,
    group,
    group_names,
    load_groups,
    make_groups,
    save_groups,
)
from gptbayes.model.problem import Problem, data_name, from_stan_data, stan_data
from gptbayes.model.simulate import next_tokens, prior_draws

_log = logging.getLogger("gptbayes")

_NUTS_STATS = {
    "lp": "lp",
    "accept_stat": "acceptance_rate",
    "stepsize": "step_size",
    "treedepth": "tree_depth",
    "n_leapfrog": "n_steps",
    "divergent": "diverging",
    "energy": "energy",
}


_DIGEST = "content_sha256"
_ATTRS = ("stage", "method", "source", "settings", "versions", "characters", "stan_data", "seconds")
"""Attributes that are text and enter the digest."""

_MASK_DIMS = {
    "attention": ("layer", "head", "query_position", "key_position"),
    "attention_output": ("layer", "embed"),
    "feed_forward": ("layer", "embed"),
}


def open_run(folder: str | Path) -> az.InferenceData:
    """Open a run directory as InferenceData.

    The first call converts the CSV files and saves the result as ``posterior.nc``. Later calls
    load that file.

    Parameters
    ----------
    folder : path
        A run directory written by `gptbayes.fit`.

    Returns
    -------
    arviz.InferenceData
        Groups ``posterior``, ``sample_stats``, ``log_likelihood`` (chain, draw, sequence,
        position), ``observed_data``, ``constant_data``, ``prior``, ``prior_predictive`` and, if
        Stan generated text, ``posterior_predictive``. Log densities are in nats. The draws of all
        Pathfinder paths are one chain, with ``lp``, ``lp_approx`` and ``path`` in
        ``sample_stats``. A mode is one chain with one draw. Sequential Monte Carlo has one chain
        per replicate, the ``segment`` and the ``ancestor`` of each draw in ``sample_stats``, and a
        group ``path``, as of `tempering_path`. A fit by an optimizer also has the group ``modes``,
        the modes of all starts as the draws of one chain.

    Raises
    ------
    ValueError
        If the folder is not a finished run, or one of its files is corrupted.
    OSError
        If one of its files cannot be read for another reason, such as a missing permission.

    See Also
    --------
    problem_of : The problem that was fitted.
    parameters_of : The draws as arrays, for `gptbayes.model.forward.forward`.

    Examples
    --------
    >>> import tempfile
    >>> from gptbayes import fit
    >>> from gptbayes.corpus import zen_of_python
    >>> from gptbayes.model.problem import make_problem
    >>> from gptbayes.model.stages import stage
    >>> problem = make_problem(stage("05"), zen_of_python(), batch_size=3)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     idata = open_run(fit.prior(problem, folder, draws=20))
    >>> idata.posterior["key"].dims
    ('chain', 'draw', 'layer', 'head', 'embed', 'head_dim')
    """
    path = Path(folder) / "posterior.nc"
    if path.exists():
        return _load(path)
    config = read_config(folder)
    idata = convert(config, read_problem(folder), iter_draws(folder))
    if config["method"] == "smc":
        _add_path(idata, config, Path(folder) / "csv")
    try:
        _save(idata, path)
    except OSError as error:  # a full disk, or somebody else's run that may only be read
        _log.warning("%s cannot be saved and will be made again when it is read: %s", path, error)
    return idata


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


def problem_of(idata: az.InferenceData) -> Problem:
    """Rebuild the problem that was fitted from the attributes of InferenceData.

    Parameters
    ----------
    idata : InferenceData
        As `open_run` returns it.

    Returns
    -------
    Problem

    See Also
    --------
    gptbayes.fit.read_problem : The same from a run directory.
    """
    return _problem(*(idata.attrs[name] for name in ("stan_data", "stage", "characters", "source")))


@functools.lru_cache(maxsize=16)
def _problem(data, stage_number, characters, source):
    """A pure function of four strings, which many callers ask of the same fit."""
    return from_stan_data(
        json.loads(data),
        stage_number=stage_number,
        characters=tuple(json.loads(characters)),
        source=source,
    )


def parameters_of(idata: az.InferenceData, group: str = "posterior") -> dict[str, np.ndarray]:
    """Get the draws of a group as arrays for `gptbayes.model.forward.forward`.

    Parameters
    ----------
    idata : InferenceData
    group : {"posterior", "prior"}

    Returns
    -------
    dict of str to ndarray
        Each ``(chain, draw, dims of that parameter)``.
    """
    return {
        name: variable.transpose("chain", "draw", ...).values
        for name, variable in idata[group].data_vars.items()
    }


def ensemble_of(idata: az.InferenceData) -> az.InferenceData | None:
    """Get the modes of all starts of an optimizer as a fit of their own, a deep ensemble.

    Parameters
    ----------
    idata : InferenceData

    Returns
    -------
    InferenceData or None
        ``posterior`` has one chain, whose draws are the modes with equal weights (Lakshminarayanan
        et al. 2017). None for a single mode and for other methods.
    """
    if idata.attrs["method"] != "optimize" or "modes" not in group_names(idata):
        return None
    modes = group(idata, "modes")
    if modes.sizes["draw"] < 2:
        return None
    return make_groups({"posterior": modes}, {**idata.attrs, "method": "ensemble"})


def _stack_units(draws, n_units):
    """Stack all units in arrays ``(unit, draw, ...)`` in C order; seconds and how each ended.

    Each unit is copied as it is read, so that one unit at a time is in memory twice.
    """
    variables: dict[str, np.ndarray] = {}
    stats: dict[str, np.ndarray] = {}
    seconds: list[float] = []
    converged: list[bool] = []
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


def superchains_of(idata: az.InferenceData) -> list[int] | None:
    """Get the superchain of each chain: the chains of a superchain have the same starting point.

    Parameters
    ----------
    idata : InferenceData
        Of NUTS, with all of its chains or some of them.

    Returns
    -------
    list of int, (chain,), or None
        None if the fit has no superchains.
    """
    settings = json.loads(idata.attrs["settings"])
    if settings.get("superchains") is None:
        return None
    starts = start_of_chain(settings["chains"], settings["superchains"])
    return [starts[chain] for chain in idata.posterior["chain"].values]


def _nuts(variables, stats):
    named = {_NUTS_STATS[name]: value for name, value in stats.items() if name in _NUTS_STATS}
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


def tempering_path(levels: Sequence[Sequence[Level]]) -> xr.Dataset:
    """The levels of sequential Monte Carlo, from the prior to the posterior.

    Parameters
    ----------
    levels : sequence of sequence of gptbayes.fit.Level
        Of each replicate; they may have different numbers of levels.

    Returns
    -------
    Dataset (chain, level)
        ``likelihood_weight``; ``log_lik`` (chain, level, draw) of all particles with its
        ``log_lik_mean`` and ``log_lik_var``; ``log_evidence``; ``ess`` of the weights that led
        here, as a share of the particles; ``step_size``, ``acceptance_rate``, ``n_steps``,
        ``n_divergent``; ``n_ancestors``, how many particles of level 0 have descendants;
        ``between_share``, the share of the variance of ``log_lik`` that is between the segments,
        see `gptbayes.fit.tempering.between_share`; ``seconds`` and of these ``stan_seconds``.
        Nan beyond the last level of a replicate. Nats.
    """
    n_level = max(map(len, levels))
    columns = {name: np.full((len(levels), n_level), np.nan) for name in _LEVEL_COLUMNS}
    log_lik = np.full((len(levels), n_level, levels[0][0].log_lik.size), np.nan)
    for k, replicate in enumerate(levels):
        for i, level in enumerate(replicate):
            log_lik[k, i] = level.log_lik.ravel()
            for name, of in _LEVEL_COLUMNS.items():
                columns[name][k, i] = of(level)
    variables = {name: (("chain", "level"), values) for name, values in columns.items()}
    return xr.Dataset(
        {**variables, "log_lik": (("chain", "level", "draw"), log_lik)},
        {"chain": range(len(levels)), "level": range(n_level), "draw": range(log_lik.shape[-1])},
    )


_LEVEL_COLUMNS = {
    "likelihood_weight": lambda level: level.likelihood_weight,
    "log_lik_mean": lambda level: level.log_lik.mean(),
    "log_lik_var": lambda level: level.log_lik.var(ddof=1),
    "log_evidence": lambda level: level.log_evidence,
    "ess": lambda level: level.ess,
    "step_size": lambda level: level.step_size,
    "acceptance_rate": lambda level: level.acceptance,
    "n_steps": lambda level: level.n_steps,
    "n_divergent": lambda level: level.n_divergent,
    "n_ancestors": lambda level: len(np.unique(level.ancestor)),
    "between_share": lambda level: between_share(level.log_lik) if level.start.size else 0.0,
    "seconds": lambda level: level.seconds,
    "stan_seconds": lambda level: level.stan_seconds,
}


def _add_path(idata, config, folder):
    """The path, and where each draw comes from."""
    levels = [levels_of(folder, k + 1) for k in range(n_units(config))]
    path = tempering_path(levels)
    n_chain, n_move = levels[0][-1].log_lik.shape
    segment = np.tile(np.repeat(np.arange(n_chain), n_move), (len(levels), 1))
    ancestor = np.stack([each[-1].ancestor.ravel() for each in levels])
    idata.sample_stats["segment"] = (("chain", "draw"), segment)
    idata.sample_stats["ancestor"] = (("chain", "draw"), ancestor)
    add_group(idata, "path", path)
    idata.attrs["seconds"] = json.dumps(path["seconds"].sum("level").values.tolist())


_METHODS = {
    "nuts": _nuts,
    "pathfinder": _pathfinder,
    "optimize": _optimize,
    "prior": _prior,
    "smc": _nuts,
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
        "kernels": config.get("kernels", _without_kernels(config["method"])),
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


def _save(idata, path):
    idata.attrs[_DIGEST] = _digest_of(idata)
    remove_leftovers(path.parent)
    try:
        with replacing(path) as partial:
            save_groups(idata, partial)
    finally:
        del idata.attrs[_DIGEST]


def _load(path):
    try:
        idata = load_groups(path)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise netcdf_error(
            path, error, "delete it, and it will be made again from the CSV files"
        ) from None
    if _DIGEST in idata.attrs and idata.attrs.pop(_DIGEST) != _digest_of(idata):
        raise ValueError(
            f"{path} is damaged: its contents are not those that were written; delete it, and it "
            "will be made again from the CSV files"
        )
    names = group_names(idata)
    if "posterior" not in names:
        raise ValueError(f"{path} must have a posterior group, got {', '.join(names)}")
    idata.attrs.setdefault("kernels", _without_kernels(idata.attrs.get("method")))
    return idata


def netcdf_error(path: Path, error: Exception, remedy: str) -> Exception:
    """Whether a netCDF file that was not read is damaged, which its bytes show, or something else.

    Parameters
    ----------
    path : path
    error : Exception
        Of whatever tried to read it.
    remedy : str
        What to do with a damaged one.

    Returns
    -------
    Exception
        A ValueError with the remedy if the file is damaged, else an OSError that says what
        happened.
    """
    reason = " ".join(str(error).split())
    try:
        content = path.read_bytes()
    except OSError as refused:
        return OSError(f"{path} cannot be read: {refused}")
    damage = _damage(content)
    if damage:
        return ValueError(f"{path} is truncated or corrupted ({damage}); {remedy}")
    if "lock" in reason:
        return OSError(
            f"{path} cannot be locked ({reason}); where the file system has no locks, set "
            "HDF5_USE_FILE_LOCKING=FALSE"
        )
    return OSError(f"{path} cannot be read, though it is a whole HDF5 file: {reason}")


def _damage(content):
    """What is wrong with the bytes of an HDF5 file, nothing if all of it can be read."""
    try:
        with h5py.File(io.BytesIO(content), "r") as file:
            file.visititems(lambda _, item: item[()] if isinstance(item, h5py.Dataset) else None)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        return " ".join(str(error).split()) or type(error).__name__
    return ""


def _digest_of(idata):
    """Of all numbers, and of the attributes that this package reads."""
    attrs = {k: v for k, v in idata.attrs.items() if isinstance(v, str) and k != _DIGEST}
    told = {k: xr.DataArray(np.array(v, dtype=object)) for k, v in attrs.items() if k in _ATTRS}
    groups = {name: group(idata, name) for name in group_names(idata)}
    return content_digest({**groups, "attrs": xr.Dataset(told)})


def _without_kernels(method):
    """The implementation of the likelihood in a run of a version that did not record it."""
    return "numpy" if method == "prior" else "stan"
