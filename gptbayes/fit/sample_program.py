"""Fits of any Stan program by NUTS as InferenceData."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import arviz as az
import numpy as np
import xarray as xr

from gptbayes.fit.directory import checked_seed
from gptbayes.groups import load_groups, make_groups, save_groups
from gptbayes.toolchain import compile_program, interface

STATISTICS = {"lp__": "lp", "divergent__": "diverging", "treedepth__": "tree_depth"}
"""Variables of the sampler and their names in InferenceData."""


def sample_program(
    program: str | Path,
    data: Mapping[str, Any],
    out: str | Path | None = None,
    *,
    dims: Mapping[str, Sequence[str]] | None = None,
    log_likelihood: Sequence[str] = ("log_lik",),
    chains: int = 4,
    iter_warmup: int = 1000,
    iter_sampling: int = 1000,
    adapt_delta: float = 0.8,
    seed: int = 1,
) -> az.InferenceData:
    """Sample from the posterior of any Stan program by NUTS.

    Parameters
    ----------
    program : path
        A Stan program. It is compiled once and cached.
    data : mapping
        The data of the program, as for `cmdstanpy.CmdStanModel.sample`.
    out : path, optional
        A netCDF file for the result. If it exists, it is loaded, and the program is not run.
    dims : mapping of str to sequence of str, optional
        Names of the dims of variables. By default they are ``name_dim_0`` and so on.
    log_likelihood : sequence of str
        Names of variables for the group ``log_likelihood``, if the program has them.
    chains, iter_warmup, iter_sampling : int
    adapt_delta : float
    seed : int

    Returns
    -------
    InferenceData or DataTree
        Groups ``posterior``, ``sample_stats`` (``lp``, ``diverging``, ``tree_depth``) and, if the
        program has a pointwise log likelihood, ``log_likelihood``.

    Raises
    ------
    ValueError
        If the program does not exist, or dims do not fit a variable.
    RuntimeError
        If the program cannot be compiled, or fails.

    Examples
    --------
    ::

        idata = gb.fit.sample_program("mixture.stan", data, dims={"mu": ["component"]})
    """
    if out is not None and Path(out).exists():
        return load_groups(Path(out))
    program = Path(program)
    executable = compile_program(program, [program.parent])
    with tempfile.TemporaryDirectory(prefix="gptbayes-program-") as folder:
        fitted = interface.run(
            executable,
            "sample",
            data=dict(data),
            chains=chains,
            iter_warmup=iter_warmup,
            iter_sampling=iter_sampling,
            adapt_delta=adapt_delta,
            seed=checked_seed(seed),
            sig_figs=17,
            output_dir=folder,
        )
        values, stats = fitted.stan_variables(), fitted.method_variables()
    shape = (chains, iter_sampling)
    found = {n: v.reshape(*shape, *v.shape[1:]) for n, v in values.items()}
    likelihood = {name: found.pop(name) for name in log_likelihood if name in found}
    groups = {
        "posterior": _dataset(found, dims or {}),
        "sample_stats": _dataset({STATISTICS[n]: stats[n].T for n in STATISTICS}, {}),
    }
    if likelihood:
        groups["log_likelihood"] = _dataset(likelihood, dims or {})
    idata = make_groups(groups, {"program": program.name})
    if out is not None:
        Path(out).parent.mkdir(parents=True, exist_ok=True)
        save_groups(idata, Path(out))
    return idata


def _dataset(values, dims):
    arrays = {}
    for name, value in values.items():
        own = list(dims.get(name, [f"{name}_dim_{k}" for k in range(value.ndim - 2)]))
        if len(own) != value.ndim - 2:
            raise ValueError(f"dims of {name} must be {value.ndim - 2}, got {own}")
        arrays[name] = (("chain", "draw", *own), np.asarray(value))
    coords = {"chain": np.arange(value.shape[0]), "draw": np.arange(value.shape[1])}
    return xr.Dataset(arrays, coords)
