"""The table of a comparison: one row for each fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import arviz as az
import numpy as np
import xarray as xr

from gptbayes.compare.refit_plan import FittedRun
from gptbayes.compare.refits import ExactLoo
from gptbayes.compare.tempered import Wbic
from gptbayes.inference import problem_of
from gptbayes.predict import Comparison, compare_loo
from gptbayes.predict.leave_one_out import psis_loo
from gptbayes.stats.summary import log_mean_exp


def comparison_table(
    runs: Sequence[FittedRun],
    loos: Mapping[str, ExactLoo],
    held_out: Comparison,
    wbics: Mapping[str, Wbic],
) -> xr.Dataset:
    """Collect the results for all runs in one table.

    Parameters
    ----------
    runs, loos, held_out, wbics
        As in `gptbayes.compare.RunComparison`.

    Returns
    -------
    Dataset (fit)
        As in `gptbayes.compare.RunComparison`.
    """
    names = [run.name for run in runs]
    rows = [
        {**_basics(run), **_loo_row(loos.get(run.name)), **_token_row(run, loos)} for run in runs
    ]
    if wbics:
        rows = [{**row, **_wbic_row(wbics.get(n))} for n, row in zip(names, rows, strict=True)]
    columns = {key: ("fit", [row[key] for row in rows]) for key in rows[0]}
    table = xr.Dataset(columns, {"fit": names})
    loo_differences = differences(loos) if len(loos) > 1 else _no_differences(names)
    held_out_columns = {name: f"held_out_{name}" for name in held_out.table.data_vars}
    return xr.merge(
        [table, loo_differences.reindex(fit=names), held_out.table.rename(held_out_columns)]
    )


def differences(loos: Mapping[str, ExactLoo]) -> xr.Dataset:
    """Compute differences of elpd with paired standard errors, and stacking weights.

    Parameters
    ----------
    loos : mapping of str to ExactLoo
        At least two.

    Returns
    -------
    Dataset (fit)
        By decreasing elpd: ``difference`` from the best fit in nats (0 or less), its standard
        error ``difference_se``, and the stacking ``weight`` (Yao et al. 2018). Stacking weights
        are those of a mixture of predictive distributions. They are not model probabilities.

    See Also
    --------
    arviz.compare : Does the computation.
    """
    return compare_loo({name: each.elpd for name, each in loos.items()})


def token_loo(idata: az.InferenceData) -> xr.Dataset:
    """Compute PSIS-LOO in which the unit left out is the likelihood factor of one character.

    These terms are conditional densities: each is the log probability of a character given its
    context and *all other* characters of the training text, later ones that have it in their
    context included. Characters are not exchangeable, and no standard error is given.

    Parameters
    ----------
    idata : InferenceData

    Returns
    -------
    Dataset (position)
        ``elpd``, the mean over sequences in nats per character, and ``n_bad_k``, the number of
        sequences with a Pareto k above its limit.
    """
    result = psis_loo(idata.log_likelihood["log_lik"])
    return xr.Dataset(
        {
            "elpd": result.loo_i.mean("sequence", skipna=False),
            "n_bad_k": (result.pareto_k > result.pareto_k_limit).sum("sequence"),
        }
    )


def _no_differences(names):
    undefined = ("fit", np.full(len(names), np.nan))
    columns = ("difference", "difference_se", "weight")
    return xr.Dataset(dict.fromkeys(columns, undefined), {"fit": names})


def _basics(run):
    problem, attrs = problem_of(run.idata), run.idata.attrs
    per_sequence = log_mean_exp(run.idata.log_likelihood["log_lik"].sum("position", skipna=False))
    weight = problem.likelihood_weight
    return {
        "stage": attrs["stage"],
        "method": attrs["method"] if weight == 1 else f"{attrs['method']}, {attrs['target']}",
        "n_parameters": problem.stage.n_parameters(problem.design),
        "training_per_character": float(per_sequence.sum(skipna=False)) / problem.n_targets,
    }


def _loo_row(exact):
    names = ("elpd_loo", "se", "p_loo")
    if exact is None:
        return dict.fromkeys((*names, "n_bad_k", "n_refitted"), np.nan)
    row = {name: float(exact.elpd[name]) for name in names}
    n_refitted = exact.refits.sizes["sequence"]
    return {**row, "n_bad_k": exact.n_unreliable + n_refitted, "n_refitted": n_refitted}


def _token_row(run, loos):
    names = ("token_elpd", "token_first", "token_last", "token_n_bad_k")
    if run.name not in loos:
        return dict.fromkeys(names, np.nan)
    terms = token_loo(run.idata)
    n_sequence = run.idata.log_likelihood.sizes["sequence"]
    values = (
        terms["elpd"].sum(skipna=False) * n_sequence,
        terms["elpd"][0],
        terms["elpd"][-1],
        terms["n_bad_k"].sum(),
    )
    return dict(zip(names, map(float, values), strict=True))


def _wbic_row(result):
    names = {
        "wbic": "wbic",
        "wbic_mcse": "mcse",
        "wbic_r_hat": "r_hat",
        "wbic_ess": "ess_bulk",
        "learning_coefficient": "learning_coefficient",
        "learning_coefficient_mcse": "learning_coefficient_mcse",
        "learning_coefficient_bound": "learning_coefficient_bound",
    }
    row = {key: float(getattr(result, name)) if result else np.nan for key, name in names.items()}
    dimension = result.dimension if result else None
    return {**row, "null_dimension": dimension.null if dimension else np.nan}
