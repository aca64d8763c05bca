"""Leave-one-sequence-out: PSIS where it can be trusted, exact refits where it cannot.

A bigram that only one sequence has makes the importance ratios of that sequence heavy-tailed: its
Pareto k goes above 0.7 and PSIS fails, as it must. The posterior without such a sequence is then
fitted by NUTS, and its log predictive density of the sequence takes the place of the PSIS term
(Vehtari, Gelman & Gabry 2017, section 2.1). Each refit is a run directory of its own under
``RUN/refits``, so that work that was interrupted goes on where it was.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import arviz as az
import numpy as np
import xarray as xr

from gptbayes import fit
from gptbayes.corpus import Windows
from gptbayes.findings import PARETO_K_LIMIT, R_HAT_LIMIT
from gptbayes.inference import open_run, parameters_of, problem_of
from gptbayes.model.forward import token_log_prob
from gptbayes.model.problem import Problem
from gptbayes.predict import loo
from gptbayes.stats.summary import log_mean_exp, summarise

OnProgress = Callable[[list[fit.Progress]], None]


class FittedRun(NamedTuple):
    """A finished run.

    Attributes
    ----------
    name : str
        What the comparison calls it.
    folder : pathlib.Path
    idata : InferenceData
    """

    name: str
    folder: Path
    idata: az.InferenceData


class Plan(NamedTuple):
    """What refitting will take.

    Attributes
    ----------
    name : str
        Of the run.
    n_sequences, n_bad : int
        How many sequences there are, and how many have a Pareto k above 0.7.
    sequences : tuple of int
        Those to leave out and refit, worst k first.
    n_finished : int
        How many of these refits are done already.
    seconds : float
        Estimate for the others, from the time that the run itself took; nan where it is unknown.
    n_bytes : float
        Estimate of the disk that the others need.
    """

    name: str
    n_sequences: int
    n_bad: int
    sequences: tuple[int, ...]
    n_finished: int
    seconds: float
    n_bytes: float


class ExactLoo(NamedTuple):
    """PSIS-LOO per sequence, corrected by exact refits.

    Attributes
    ----------
    elpd : arviz.ELPDData
        With the terms of the refits in ``loo_i``, and ``elpd_loo``, ``se`` and ``p_loo`` to
        match. ``pareto_k`` is that of PSIS, of refitted sequences too; ``warning`` says whether
        any unreliable term is left.
    psis : arviz.ELPDData
        As it was before.
    refits : Dataset (sequence)
        One item per refit: its ``pareto_k``; the term by ``psis`` and the ``exact`` one, nats,
        with its Monte Carlo error ``mcse``; of the left-out sequence's log density ``r_hat`` and
        ``ess_bulk``, and of its density over draws the tail's ``density_k``: above 0.7 a few draws
        make up most of the mean (Vehtari et al. 2024, section 5); ``divergences``.
    n_unreliable : int
        Sequences with a Pareto k above 0.7 that were not refitted.
    """

    elpd: az.ELPDData
    psis: az.ELPDData
    refits: xr.Dataset
    n_unreliable: int

    @property
    def doubtful(self) -> xr.Dataset:
        """The refits whose own diagnostics are out of their limits."""
        of = self.refits
        bad = (of["r_hat"] > R_HAT_LIMIT) | (of["divergences"] > 0)
        return of.isel(sequence=np.flatnonzero(bad | (of["density_k"] > PARETO_K_LIMIT)))


def plan_refits(
    run: FittedRun,
    psis: az.ELPDData,
    *,
    refits: str | int = "all",
    settings: Mapping[str, object] | None = None,
) -> Plan:
    """Which sequences to leave out and refit, and what that will take.

    Parameters
    ----------
    run : Fitted
        Of NUTS.
    psis : arviz.ELPDData
        `gptbayes.predict.loo` of it.
    refits : {"all", "none"} or int
        All sequences with a Pareto k above 0.7, none, or at most so many, worst first.
    settings : mapping, optional
        Of `gptbayes.fit.nuts`, where they differ from the run's own.

    Returns
    -------
    Plan

    Raises
    ------
    ValueError
        If ``refits`` is something else.
    """
    if refits not in ("all", "none") and not (isinstance(refits, int) and refits >= 0):
        raise ValueError(f"refits must be all, none or a number, got {refits!r}")
    k = psis.pareto_k.values
    worst_first = [int(i) for i in np.argsort(-k, kind="stable") if k[i] > PARETO_K_LIMIT]
    limit = {"all": len(worst_first), "none": 0}.get(refits, refits)
    sequences = tuple(worst_first[:limit])
    wanted = _settings(run, settings)
    finished = sum(_is_finished(_folder(run, sequence), wanted) for sequence in sequences)
    left = len(sequences) - finished
    files = [*(run.folder / "csv").glob("chain-*.csv"), run.folder / "posterior.nc"]
    on_disk = sum(path.stat().st_size for path in files if path.exists())
    own = _settings(run, None)
    draws = _product(wanted, "iter_sampling") / _product(own, "iter_sampling")
    return Plan(
        name=run.name,
        n_sequences=len(k),
        n_bad=len(worst_first),
        sequences=sequences,
        n_finished=finished,
        seconds=left * estimated_seconds(run, settings) if left else 0.0,
        n_bytes=left * on_disk * draws,
    )


def estimated_seconds(run: FittedRun, settings: Mapping[str, object] | None = None) -> float:
    """How long a fit like this run will take here, from the time that its chains took."""
    own, wanted = _settings(run, None), _settings(run, settings)
    per_chain = float(np.mean(json.loads(run.idata.attrs["seconds"])))
    longer = _iterations(wanted) / _iterations(own)
    at_once = min(wanted["chains"], os.cpu_count() or 1)
    return per_chain * longer * math.ceil(wanted["chains"] / at_once)


def exact_loo(
    run: FittedRun,
    *,
    refits: str | int = "all",
    settings: Mapping[str, object] | None = None,
    psis: az.ELPDData | None = None,
    executor: Executor | None = None,
    on_progress: OnProgress | None = None,
) -> ExactLoo:
    """Leave one sequence out, exactly where PSIS fails.

    Parameters
    ----------
    run : Fitted
        Of NUTS, with likelihood weight 1.
    refits, settings
        As for `plan_refits`.
    psis : arviz.ELPDData, optional
        `gptbayes.predict.loo` of it, where it is known already.
    executor : concurrent.futures.Executor, optional
        Runs the chains of each refit, as in `gptbayes.fit.nuts`.
    on_progress : callable, optional
        Called now and then with the progress of all refits together.

    Returns
    -------
    ExactLoo

    Raises
    ------
    ValueError
        For unusable ``refits`` or settings, or if the folder of a refit holds another one.
    RuntimeError
        If a chain fails; refits that are finished are kept.
    """
    psis = loo(run.idata) if psis is None else psis
    plan = plan_refits(run, psis, refits=refits, settings=settings)
    n_fits, rows = len(plan.sequences), []
    for i, sequence in enumerate(plan.sequences):
        listen = combined_progress(f"{run.name}: {n_fits} refits", i, n_fits, on_progress)
        density = refit_density(
            run, sequence, settings=settings, executor=executor, on_progress=listen
        )
        density["pareto_k"] = float(psis.pareto_k[sequence])
        density["psis"] = float(psis.loo_i[sequence])
        rows.append(density.assign_coords(sequence=sequence))
    found = xr.concat(rows, "sequence").sortby("sequence") if rows else _no_refits()
    n_unreliable = plan.n_bad - n_fits
    return ExactLoo(_corrected(psis, found, n_unreliable), psis, found, n_unreliable)


def refit_density(
    run: FittedRun,
    sequence: int,
    *,
    settings: Mapping[str, object] | None = None,
    executor: Executor | None = None,
    on_progress: OnProgress | None = None,
) -> xr.Dataset:
    """Fit the posterior without a sequence, and evaluate the sequence.

    Parameters
    ----------
    run : Fitted
    sequence : int
        0-based, as in the coordinates of ``log_likelihood``.
    settings, executor, on_progress
        As for `exact_loo`.

    Returns
    -------
    Dataset ()
        ``exact``, the log predictive density of the sequence in nats, its Monte Carlo error
        ``mcse`` by the delta method; ``r_hat`` and ``ess_bulk`` of its log density over draws,
        ``density_k`` of its density; ``divergences``.
    """
    problem, folder = problem_of(run.idata), _folder(run, sequence)
    refit(run, without_sequence(problem, sequence), folder, settings, executor, on_progress)
    idata = open_run(folder)
    left_out = Windows(*(part[[sequence]] for part in problem.training))
    values = token_log_prob(problem.stage, parameters_of(idata), left_out).sum(axis=(-1, -2))
    log_density = xr.DataArray(values, dims=("chain", "draw"))
    mean = log_mean_exp(log_density)
    summary = summarise(log_density)
    return xr.Dataset(
        {
            "exact": mean,
            "mcse": summarise(np.exp(log_density - mean))["mcse_mean"],
            "r_hat": summary["r_hat"],
            "ess_bulk": summary["ess_bulk"],
            "density_k": float(az.psislw(values.ravel())[1]),
            "divergences": idata.sample_stats["diverging"].sum(),
        }
    )


def without_sequence(problem: Problem, sequence: int) -> Problem:
    """The same problem without one of its training sequences.

    Raises
    ------
    ValueError
        If there is no such sequence, or no other.
    """
    n = problem.design.batch_size
    if n < 2 or not 0 <= sequence < n:
        raise ValueError(
            f"one of at least 2 sequences can be left out, got number {sequence} of {n}"
        )
    return replace(
        problem,
        design=replace(problem.design, batch_size=n - 1),
        training=Windows(*(np.delete(part, sequence, axis=0) for part in problem.training)),
        n_new_tokens=0,
        source=f"{problem.source}, without sequence {sequence}",
    )


def refit(run: FittedRun, problem, folder, settings, executor, on_progress) -> None:
    """Fit a changed problem with the settings of a run, and say what to do with an old folder."""
    own = {name: run.idata.attrs[name] for name in ("kernels", "seed")}
    config = {**_settings(run, settings), **own, "seed": int(own["seed"])}
    try:
        fit.nuts(problem, folder, executor=executor, on_progress=on_progress, **config)
    except ValueError as error:
        if "another configuration" not in str(error):
            raise
        found = str(error).split("; choose")[0]
        raise ValueError(f"{found}; use the settings that it has, or delete it") from None


def combined_progress(label: str, n_done: int, n_fits: int, on_progress: OnProgress | None):
    """One bar for several fits in a row: the progress of chains as that of all of them."""
    if on_progress is None:
        return None

    def listen(units):
        chains = [unit for unit in units if unit.label.startswith("chain")]
        per_fit = sum(unit.total for unit in chains)
        if chains:  # before them, Pathfinder finds where they start
            done = n_done * per_fit + sum(unit.done for unit in chains)
            on_progress([fit.Progress(label, done, n_fits * per_fit, True)])

    return listen


def _folder(run, sequence):
    return run.folder / "refits" / f"sequence-{sequence:03d}"


def _settings(run, settings):
    own = json.loads(run.idata.attrs["settings"])
    if "chains" in (settings or {}):  # another number, which those of the run may not divide
        own = {**own, "superchains": None}
    return {**own, **(settings or {})}


def _iterations(settings):
    return settings["iter_warmup"] + settings["iter_sampling"]


def _product(settings, name):
    return settings["chains"] * settings[name]


def _is_finished(folder, settings):
    names = [f"chain-{k}.csv" for k in range(1, settings["chains"] + 1)]
    return all((folder / "csv" / name).exists() for name in names)


def _no_refits():
    names = ("exact", "mcse", "r_hat", "ess_bulk", "density_k", "divergences", "pareto_k", "psis")
    nothing = {name: ("sequence", np.zeros(0)) for name in names}
    return xr.Dataset(nothing, {"sequence": np.zeros(0, dtype=np.int64)})


def _corrected(psis, refits, n_unreliable):
    """ELPDData with the exact terms in place of those of PSIS."""
    terms = psis.loo_i.copy(deep=True)
    terms[refits["sequence"].values] = refits["exact"].values
    elpd = psis.copy()
    elpd["loo_i"] = terms
    elpd["elpd_loo"] = float(terms.sum())
    elpd["se"] = float(np.sqrt(terms.size * terms.var()))
    elpd["p_loo"] = psis["p_loo"] + psis["elpd_loo"] - elpd["elpd_loo"]
    elpd["warning"] = n_unreliable > 0
    return elpd
