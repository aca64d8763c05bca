"""Comparison of several fits of the same text."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from gptbayes.compare.comparison_findings import findings_of
from gptbayes.compare.refit_plan import FittedRun, RefitPlan, plan_refits
from gptbayes.compare.refits import ExactLoo, OnProgress, exact_loo
from gptbayes.compare.same_text import open_same_text
from gptbayes.compare.table import comparison_table
from gptbayes.compare.tempered import Wbic, wbic
from gptbayes.findings import Finding
from gptbayes.inference import MARKOV_CHAINS, problem_of
from gptbayes.predict import Comparison, compare_held_out, loo


class RunComparison(NamedTuple):
    """A comparison of several fits of the same text.

    Attributes
    ----------
    table : Dataset (fit)
        One row for each fit: runs of NUTS and HMC by decreasing elpd of LOO, then the others in
        the order given. Densities are in nats, and nan where they are not defined for a fit.
        Columns:

        - ``stage``, ``method``, ``n_parameters``, ``training_per_character``;
        - LOO by sequence: ``elpd_loo``, ``se``, ``p_loo``, ``n_bad_k``, ``n_refitted``, the
          ``difference`` from the best fit with ``difference_se``, and the stacking ``weight``;
        - LOO by character: ``token_elpd``, ``token_first`` and ``token_last`` (means at the first
          and last position), ``token_n_bad_k``;
        - held-out text: ``held_out_elpd``, ``held_out_se``, ``held_out_mcse``,
          ``held_out_difference``, ``held_out_difference_se``, ``held_out_per_character``,
          ``held_out_per_character_se``;
        - with WBIC: ``wbic``, ``wbic_mcse``, ``wbic_r_hat``, ``wbic_ess``,
          ``learning_coefficient``, ``learning_coefficient_mcse``,
          ``learning_coefficient_bound``, ``null_dimension``.
    loo : dict of str to ExactLoo
        One item for each run of NUTS or HMC.
    held_out : gptbayes.predict.Comparison
        All runs, in the order of ``table``.
    wbic : dict of str to Wbic
        One item for each run of NUTS or HMC; empty without WBIC.
    findings : list of Finding
        The results in words, with warnings about unreliable numbers.
    """

    table: xr.Dataset
    loo: dict[str, ExactLoo]
    held_out: Comparison
    wbic: dict[str, Wbic]
    findings: list[Finding]


def compare_runs(
    folders: Sequence[str | Path],
    *,
    refits: str | int = "all",
    settings: Mapping[str, object] | None = None,
    with_wbic: bool = False,
    executor: Executor | None = None,
    on_plan: Callable[[list[RefitPlan]], None] | None = None,
    on_progress: OnProgress | None = None,
) -> RunComparison:
    """Compare finished runs of the same text.

    Parameters
    ----------
    folders : sequence of path
        Run directories, at least one of them of NUTS or HMC. Runs of Pathfinder and modes are
        compared on held-out text only.
    refits : {"all", "none"} or int
        Number of sequences of each run that are left out by an exact refit, among those with a
        Pareto k above its limit: all, none, or at most this many, in order of decreasing k.
    settings : mapping, optional
        Settings of `gptbayes.fit.nuts` for refits and tempered fits, where they differ from those
        of the run.
    with_wbic : bool
        Whether to fit the tempered posterior of each of these runs and compute WBIC.
    executor : concurrent.futures.Executor, optional
        Runs the chains. By default a pool with one worker for each core of this machine.
    on_plan : callable, optional
        Called once, before the refits, with the plans for all of these runs.
    on_progress : callable, optional
        As for `gptbayes.fit.nuts`.

    Returns
    -------
    RunComparison

    Raises
    ------
    ValueError
        If there is no run of NUTS or HMC, a run is not finished, or the runs are fits of different
        text.
    RuntimeError
        If a chain fails. The same call resumes the comparison.

    See Also
    --------
    exact_loo : LOO of one run, with exact refits.
    gptbayes.predict.compare_held_out : Held-out text only, without fits.
    """
    runs = open_runs(folders)
    sampled = [run for run in runs if run.idata.attrs["method"] in MARKOV_CHAINS]
    psis = {run.name: loo(run.idata) for run in sampled}
    if on_plan:
        plan: dict[str, Any] = {"refits": refits, "settings": settings}
        on_plan([plan_refits(run, psis[run.name], **plan) for run in sampled])
    options: dict[str, Any] = {
        "settings": settings,
        "executor": executor,
        "on_progress": on_progress,
    }
    loos = {
        run.name: exact_loo(run, refits=refits, psis=psis[run.name], **options) for run in sampled
    }
    wbics = {run.name: wbic(run, runs, **options) for run in sampled} if with_wbic else {}
    best_first = sorted(
        loos, key=lambda name: -np.nan_to_num(loos[name].elpd["elpd_loo"], nan=-np.inf)
    )
    rank = {name: i for i, name in enumerate(best_first)}
    runs = sorted(runs, key=lambda run: rank.get(run.name, len(runs)))
    held_out = compare_held_out({run.name: run.idata for run in runs})
    table = comparison_table(runs, loos, held_out, wbics)
    findings = findings_of(runs, table, loos, held_out, wbics)
    return RunComparison(table, loos, held_out, wbics, findings)


def open_runs(folders: Sequence[str | Path]) -> list[FittedRun]:
    """Open run directories and check that they can be compared.

    Parameters
    ----------
    folders : sequence of path

    Returns
    -------
    list of FittedRun
        Named after their folders, in the order given.

    Raises
    ------
    ValueError
        As `compare_runs`.
    """
    runs = open_same_text(folders)
    _check_comparable(runs)
    return runs


def _check_comparable(runs):
    methods = [run.idata.attrs["method"] for run in runs]
    if not set(methods) & set(MARKOV_CHAINS):
        raise ValueError(f"compare needs at least one run of NUTS or HMC, got {', '.join(methods)}")
    for run in runs:
        problem = problem_of(run.idata)
        if run.idata.attrs["method"] in MARKOV_CHAINS and problem.likelihood_weight != 1:
            raise ValueError(
                "likelihood_weight must be 1 for runs of NUTS or HMC to be compared, "
                f"{run.name} is of the {run.idata.attrs['target']}"
            )
        if problem.design.batch_size < 2:
            raise ValueError(f"leave-one-sequence-out needs at least 2 sequences, {run.name} has 1")
