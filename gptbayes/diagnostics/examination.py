"""What chains disagree about: symmetry, modes, paths between them, and what was learned."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import arviz as az
import h5netcdf
import numpy as np
import xarray as xr

from gptbayes.diagnostics.contraction import Contraction, contraction
from gptbayes.diagnostics.convergence import mixing_table
from gptbayes.diagnostics.mode_connectivity import connections
from gptbayes.diagnostics.mode_masses import (
    ModeMasses,
    masses_of_modes,
    mode_masses,
    weigh_by_mass,
    with_masses,
)
from gptbayes.diagnostics.modes import (
    Modes,
    Space,
    Stack,
    context_log_prob,
    find_modes,
    function_space,
    stack_chains,
    weight_space,
)
from gptbayes.diagnostics.sampler import Diagnosis, quantities
from gptbayes.diagnostics.verdict import Verdict, mixing_verdict
from gptbayes.inference import parameters_of, problem_of, superchains_of
from gptbayes.stats.summary import r_hat
from gptbayes.symmetry import generators, symmetry_dimension

FILE = "symmetry.nc"
"""In a run directory: what `save_examination` kept."""
MAX_TANGENTS = 20_000_000
"""Of numbers in the tangents of one draw; beyond, the dimension of its orbit is not computed."""


class Examination(NamedTuple):
    """All that `gptbayes symmetry` says of a fit.

    Attributes
    ----------
    kinds : dict of str to DataArray (chain, draw, scalar)
        "raw weights", "aligned weights", "invariants", "log probabilities", "log posterior".
    r_hats : dict of str to DataArray (scalar)
    verdict : gptbayes.diagnostics.verdict.Verdict
    functions, weights : gptbayes.diagnostics.modes.Space
        Segments of chains by what they predict and by their aligned weights.
    modes : gptbayes.diagnostics.modes.Modes
    stack : gptbayes.diagnostics.modes.Stack or None
        None for a single chain.
    connections : Dataset or None
        As `gptbayes.diagnostics.mode_connectivity.connections`; None if it was not asked for.
    contraction : gptbayes.diagnostics.contraction.Contraction or None
        None if it was not asked for.
    n_parameters, n_redundant : int
        Weights, and the dimension of the orbit of one draw: how many directions of weight space no
        prediction depends on. -1 where the model is too large to say.
    symmetries : tuple of (str, bool, bool)
        Name, whether continuous, whether the prior keeps it.
    masses : gptbayes.diagnostics.mode_masses.ModeMasses or None
        Of the modes that the chains are in, or of those of a fit by sequential Monte Carlo itself;
        None without such a fit.
    mixtures : Dataset (mixture) or None
        As `gptbayes.diagnostics.mode_masses.weigh_by_mass`, for chains in several modes.
    """

    kinds: dict[str, xr.DataArray]
    r_hats: dict[str, xr.DataArray]
    verdict: Verdict
    functions: Space
    weights: Space
    modes: Modes
    stack: Stack | None
    connections: xr.Dataset | None
    contraction: Contraction | None
    n_parameters: int
    n_redundant: int
    symmetries: tuple[tuple[str, bool, bool], ...]
    masses: ModeMasses | None = None
    mixtures: xr.Dataset | None = None


class SavedExamination(NamedTuple):
    """What takes minutes to find, as a run directory keeps it.

    Attributes
    ----------
    connections : Dataset or None
        As `gptbayes.diagnostics.mode_connectivity.connections`.
    local : Dataset or None
        As `gptbayes.diagnostics.contraction.local_contraction`.
    learned : list of str
        Of `gptbayes.diagnostics.contraction.Contraction`.
    """

    connections: xr.Dataset | None
    local: xr.Dataset | None
    learned: list[str]


def examine(
    idata: az.InferenceData,
    *,
    diagnosis: Diagnosis | None = None,
    smc: az.InferenceData | None = None,
    paths: bool = True,
    learned: bool = True,
    seed: int = 1,
    on_step: Callable[[str], None] | None = None,
) -> Examination:
    """Examine a fit by NUTS, or one by sequential Monte Carlo, whose replicates are its chains.

    Parameters
    ----------
    idata : InferenceData
    diagnosis : gptbayes.diagnostics.sampler.Diagnosis, optional
        Of the same fit, where it is known already.
    smc : InferenceData, optional
        A fit of the same posterior by sequential Monte Carlo, which gives the modes their masses.
    paths : bool
        Whether to look for barriers between chains; needs a C++ compiler for curves.
    learned : bool
        Whether to compare the posterior with the prior.
    seed : int
        Of which draws are joined, of classifiers and of texts.
    on_step : callable, optional
        Called with a word or two before each step.

    Returns
    -------
    Examination

    Raises
    ------
    ValueError
        If it is a fit by another method, its chains are too short, or ``smc`` is a fit of another
        posterior.
    """
    if idata.attrs["method"] not in ("nuts", "smc"):
        raise ValueError(f"chains are those of nuts or smc, got a fit by {idata.attrs['method']}")
    say = on_step or (lambda step: None)
    problem, parameters = problem_of(idata), parameters_of(idata)
    superchains = superchains_of(idata)
    say("aligning")
    kinds = diagnosis.kinds if diagnosis and diagnosis.kinds else quantities(idata)
    say("mixing")
    r_hats = {name: r_hat(draws) for name, draws in kinds.items()}
    table = mixing_table(kinds, superchains, r_hats=r_hats, seed=seed)
    said = mixing_verdict(kinds, superchains, r_hats=r_hats, table=table)
    say("modes")
    functions = function_space(context_log_prob(idata))
    weights = weight_space(kinds.get("aligned weights", kinds["raw weights"]))
    label = said.groups.label if said.groups else None
    modes = find_modes(idata, label, seed=seed)
    stack = stack_chains(idata) if idata.posterior.sizes["chain"] > 1 else None
    masses, mixtures = _masses(idata, modes.label, smc, stack)
    said = with_masses(said, masses)
    joined = learnt = None
    if paths and idata.posterior.sizes["chain"] > 1:
        say("paths")
        joined = connections(problem, parameters, rng=np.random.default_rng(seed))
    if learned:
        say("what was learned")
        learnt = contraction(idata, n_local=_n_local(problem))
    say("dimensions")
    return Examination(
        kinds=kinds,
        r_hats=r_hats,
        verdict=said,
        functions=functions,
        weights=weights,
        modes=modes,
        stack=stack,
        connections=joined,
        contraction=learnt,
        n_parameters=problem.stage.n_parameters(problem.design),
        n_redundant=_n_redundant(problem, parameters),
        symmetries=tuple(
            (each.name, each.continuous, each.keeps_prior) for each in generators(problem.stage)
        ),
        masses=masses,
        mixtures=mixtures,
    )


def save_examination(found: Examination, folder: str | Path) -> None:
    """Keep what took minutes in a run directory, for its report."""
    path = Path(folder) / FILE
    partial = path.with_name(f".{path.name}-{os.getpid()}")
    learned = found.contraction.sentences if found.contraction else []
    groups = {
        "connections": found.connections,
        "local": found.contraction.local if found.contraction else None,
    }
    attrs = {"learned": json.dumps(learned)}
    try:
        xr.Dataset(attrs=attrs).to_netcdf(partial, engine="h5netcdf")
        for name, dataset in groups.items():
            if dataset is not None:
                dataset.to_netcdf(partial, group=name, mode="a", engine="h5netcdf")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def load_examination(folder: str | Path) -> SavedExamination | None:
    """What `save_examination` kept of a run, if anything.

    Raises
    ------
    ValueError
        If its file is corrupted.
    """
    path = Path(folder) / FILE
    if not path.exists():
        return None
    try:
        attrs = xr.load_dataset(path, engine="h5netcdf").attrs
        with h5netcdf.File(path) as file:
            names = set(file.groups)
        groups = [
            xr.load_dataset(path, group=name, engine="h5netcdf") if name in names else None
            for name in ("connections", "local")
        ]
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{path} is corrupted ({error}): delete it") from None
    return SavedExamination(*groups, json.loads(attrs["learned"]))


def _masses(idata, label, smc, stack):
    """Masses of modes, and what they would do for the held-out text where chains are trapped."""
    if idata.attrs["method"] == "smc":
        return mode_masses(idata), None
    if smc is None:
        return None, None
    masses = masses_of_modes(idata, label, smc)
    if masses.table.sizes["mode"] < 2 or stack is None or masses.table["mass"].sum() == 0:
        return masses, None
    return masses, weigh_by_mass(idata, label, masses, stack.chains["weight"].values)


def _n_local(problem):
    """Draws for the local approximation: each takes a minute at 2,500 weights, a second at 500."""
    n = problem.stage.n_parameters(problem.design)
    return 6 if n <= 500 else 2 if n <= 1500 else 1


def _n_redundant(problem, parameters):
    """Of the last draw, whose orbit is as large as that of any other."""
    n = problem.stage.n_parameters(problem.design)
    if n**2 > MAX_TANGENTS:
        return -1
    return symmetry_dimension(problem.stage, {k: v[-1, -1] for k, v in parameters.items()})
