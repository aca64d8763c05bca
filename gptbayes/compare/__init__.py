"""Which stage predicts better, and by how much: several fits of the same text side by side."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import NamedTuple

import arviz as az
import numpy as np
import xarray as xr

from gptbayes.compare.comparison_findings import findings
from gptbayes.compare.refits import (
    ExactLoo,
    FittedRun,
    OnProgress,
    Plan,
    estimated_seconds,
    exact_loo,
    plan_refits,
    refit_density,
    without_sequence,
)
from gptbayes.compare.same_text import open_same_text
from gptbayes.compare.tempered import Wbic, tempered_problem, wbic
from gptbayes.findings import PARETO_K_LIMIT, Finding
from gptbayes.inference import problem_of
from gptbayes.predict import Comparison, compare_held_out, loo, stacked
from gptbayes.stats.summary import log_mean_exp

__all__ = [
    "ExactLoo",
    "FittedRun",
    "Plan",
    "Stages",
    "Wbic",
    "compare_runs",
    "differences",
    "estimated_seconds",
    "exact_loo",
    "open_fits",
    "plan_refits",
    "refit_density",
    "tempered_problem",
    "token_terms",
    "wbic",
    "without_sequence",
]


class Stages(NamedTuple):
    """Several fits of the same text, compared.

    Attributes
    ----------
    table : Dataset (fit)
        One row per fit, best elpd of LOO first, then fits that have none, in the order given. All
        densities in nats, nan where a fit has no such number. ``stage``, ``method``,
        ``n_parameters``; of LOO ``elpd_loo``, ``se``, ``p_loo``, ``n_bad_k``, ``n_refitted``,
        ``difference`` to the best with ``difference_se``, stacking ``weight``; of characters
        ``token_elpd``, ``token_first``, ``token_last`` (means at the first and the last
        position), ``token_n_bad_k``; ``training_per_character``; ``held_out_elpd``,
        ``held_out_se``, ``held_out_mcse``, ``held_out_difference``, ``held_out_difference_se``,
        ``held_out_per_character``, ``held_out_per_character_se``. With WBIC also ``wbic``,
        ``wbic_mcse``, ``wbic_r_hat``, ``wbic_ess``, ``learning_coefficient``,
        ``learning_coefficient_mcse``, ``learning_coefficient_bound``, ``null_dimension``.
    loo : dict of str to ExactLoo
        Of each NUTS run.
    held_out : gptbayes.predict.Comparison
        Of all runs, in the order of ``table``.
    wbic : dict of str to Wbic
        Of each NUTS run, if wanted.
    findings : list of Finding
        What these numbers say, and what is shaky about them.
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
    on_plan: Callable[[list[Plan]], None] | None = None,
    on_progress: OnProgress | None = None,
) -> Stages:
    """Compare finished runs of the same text.

    Parameters
    ----------
    folders : sequence of path
        Run directories: at least one of NUTS; those of Pathfinder and modes are compared on
        held-out text.
    refits : {"all", "none"} or int
        Which sequences with a Pareto k above 0.7 are left out by an exact refit: all, none, or
        at most so many of each run, worst first.
    settings : mapping, optional
        Of `gptbayes.fit.nuts`, for refits and tempered fits, where they differ from the run's.
    with_wbic : bool
        Whether to fit the tempered posterior of each NUTS run too.
    executor : concurrent.futures.Executor, optional
        Runs the chains; a pool of this machine's cores by default.
    on_plan : callable, optional
        Called once, before long work, with what there is to refit for each NUTS run.
    on_progress : callable, optional
        As in `gptbayes.fit.nuts`.

    Returns
    -------
    Stages

    Raises
    ------
    ValueError
        If there is no NUTS run, a run is not finished, or the runs are of different text.
    RuntimeError
        If a chain fails; the same call goes on from there.
    """
    fits = open_fits(folders)
    sampled = [run for run in fits if run.idata.attrs["method"] == "nuts"]
    approximate = {run.name: loo(run.idata) for run in sampled}
    plans = [
        plan_refits(run, approximate[run.name], refits=refits, settings=settings) for run in sampled
    ]
    if on_plan:
        on_plan(plans)
    work = {"settings": settings, "executor": executor, "on_progress": on_progress}
    loos = {
        run.name: exact_loo(run, refits=refits, psis=approximate[run.name], **work)
        for run in sampled
    }
    wbics = {run.name: wbic(run, fits, **work) for run in sampled} if with_wbic else {}
    best_first = sorted(loos, key=lambda name: -loos[name].elpd["elpd_loo"])
    rank = {name: i for i, name in enumerate(best_first)}
    fits = sorted(fits, key=lambda run: rank.get(run.name, len(fits)))
    held_out = compare_held_out({run.name: run.idata for run in fits})
    table = _table(fits, loos, held_out, wbics)
    return Stages(table, loos, held_out, wbics, findings(fits, table, loos, held_out, wbics))


def open_fits(folders: Sequence[str | Path]) -> list[FittedRun]:
    """Open runs and make sure that they can be compared.

    Parameters
    ----------
    folders : sequence of path

    Returns
    -------
    list of Fitted
        Named after their folders.

    Raises
    ------
    ValueError
        As `compare_runs`.
    """
    fits = open_same_text(folders)
    _check_comparable(fits)
    return fits


def differences(loos: Mapping[str, ExactLoo]) -> xr.Dataset:
    """Differences of elpd with paired standard errors, and stacking weights, by ArviZ.

    Parameters
    ----------
    loos : mapping of str to ExactLoo
        At least two.

    Returns
    -------
    Dataset (fit)
        Best first: ``difference`` to the best in nats (0 or less), ``difference_se``, and
        ``weight``, that of stacking (Yao et al. 2018): weights for a mixture that predicts, no
        probabilities of models.
    """
    return stacked({name: each.elpd for name, each in loos.items()})


def token_terms(idata: az.InferenceData) -> xr.Dataset:
    """PSIS-LOO where the unit left out is the likelihood factor of one character.

    Conditional: each term is the log probability of a character given its context and *all other*
    characters of the text, later ones that have it in their context included. Characters are no
    exchangeable units, and no standard error is given.

    Parameters
    ----------
    idata : InferenceData

    Returns
    -------
    Dataset (position)
        ``elpd``, the mean over sequences, nats per character, and ``n_bad_k``.
    """
    with warnings.catch_warnings():  # n_bad_k says it
        warnings.simplefilter("ignore", UserWarning)
        result = az.loo(idata, var_name="log_lik", pointwise=True)
    return xr.Dataset(
        {
            "elpd": result.loo_i.mean("sequence"),
            "n_bad_k": (result.pareto_k > PARETO_K_LIMIT).sum("sequence"),
        }
    )


def _check_comparable(fits):
    methods = [run.idata.attrs["method"] for run in fits]
    if "nuts" not in methods:
        raise ValueError(f"compare needs at least one NUTS run, got {', '.join(methods)}")
    for run in fits:
        problem = problem_of(run.idata)
        if run.idata.attrs["method"] == "nuts" and problem.likelihood_weight != 1:
            raise ValueError(
                f"NUTS runs must be of the posterior to be compared, {run.name} is of the "
                f"{run.idata.attrs['target']}"
            )
        if problem.design.batch_size < 2:
            raise ValueError(f"leaving one sequence out needs two, {run.name} has one")


def _table(fits, loos, held_out, wbics):
    """One row per fit, with nan where it has no such number."""
    names = [run.name for run in fits]
    rows = [
        {**_basics(run), **_loo_row(loos.get(run.name)), **_token_row(run, loos)} for run in fits
    ]
    if wbics:
        rows = [{**row, **_wbic_row(wbics.get(n))} for n, row in zip(names, rows, strict=True)]
    columns = {key: ("fit", [row[key] for row in rows]) for key in rows[0]}
    table = xr.Dataset(columns, {"fit": names})
    of_differences = differences(loos) if len(loos) > 1 else _no_differences(names)
    out = held_out.table.rename({name: f"held_out_{name}" for name in held_out.table.data_vars})
    return xr.merge([table, of_differences.reindex(fit=names), out])


def _no_differences(names):
    nothing = ("fit", np.full(len(names), np.nan))
    return xr.Dataset(
        dict.fromkeys(("difference", "difference_se", "weight"), nothing), {"fit": names}
    )


def _basics(run):
    problem, attrs = problem_of(run.idata), run.idata.attrs
    per_sequence = log_mean_exp(run.idata.log_likelihood["log_lik"].sum("position"))
    weight = problem.likelihood_weight
    return {
        "stage": attrs["stage"],
        "method": attrs["method"] if weight == 1 else f"{attrs['method']}, {attrs['target']}",
        "n_parameters": problem.stage.n_parameters(problem.design),
        "training_per_character": float(per_sequence.sum()) / problem.n_targets,
    }


def _loo_row(found):
    names = ("elpd_loo", "se", "p_loo")
    if found is None:
        return dict.fromkeys((*names, "n_bad_k", "n_refitted"), np.nan)
    row = {name: float(found.elpd[name]) for name in names}
    n_refitted = found.refits.sizes["sequence"]
    return {**row, "n_bad_k": found.n_unreliable + n_refitted, "n_refitted": n_refitted}


def _token_row(run, loos):
    names = ("token_elpd", "token_first", "token_last", "token_n_bad_k")
    if run.name not in loos:
        return dict.fromkeys(names, np.nan)
    terms = token_terms(run.idata)
    n_sequence = run.idata.log_likelihood.sizes["sequence"]
    values = (
        terms["elpd"].sum() * n_sequence,
        terms["elpd"][0],
        terms["elpd"][-1],
        terms["n_bad_k"].sum(),
    )
    return dict(zip(names, map(float, values), strict=True))


def _wbic_row(found):
    names = {
        "wbic": "wbic",
        "wbic_mcse": "mcse",
        "wbic_r_hat": "r_hat",
        "wbic_ess": "ess_bulk",
        "learning_coefficient": "learning_coefficient",
        "learning_coefficient_mcse": "learning_coefficient_mcse",
        "learning_coefficient_bound": "bound",
    }
    row = {key: float(getattr(found, name)) if found else np.nan for key, name in names.items()}
    known = found is not None and found.dimension is not None
    return {**row, "null_dimension": found.dimension.null if known else np.nan}
