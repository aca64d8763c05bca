"""WBIC and the learning coefficient, from a tempered posterior.

The widely applicable Bayesian information criterion (WBIC) is the mean negative log likelihood
under the posterior at inverse temperature 1 / log n. To leading orders it equals the negative log
marginal likelihood, for singular models too (Watanabe 2013). Its excess over the smallest negative
log likelihood, divided by log n, estimates the learning coefficient (Watanabe 2013, section 4; Lau
et al. 2023), which is half the number of parameters for a regular model and less for a singular
one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from gptbayes.compare.refit_plan import FittedRun
from gptbayes.compare.refits import OnProgress, combined_progress, refit
from gptbayes.inference import open_run, problem_of
from gptbayes.model.problem import Problem
from gptbayes.stats.summary import summarise
from gptbayes.symmetry.dimension import MAX_PARAMETERS, NullDimension, generic_null_dimension


class Wbic(NamedTuple):
    """WBIC and the learning coefficient of a run.

    Attributes
    ----------
    n_characters : int
        Number of targets, n.
    wbic : float
        In nats; smaller is better. As an approximation of the negative log marginal likelihood its
        error grows like √log n.
    mcse, r_hat, ess_bulk : float
        Monte Carlo standard error of ``wbic``, and R-hat and bulk ESS of the log likelihood under
        the tempered posterior.
    divergences : int
        Number of divergent transitions of the tempered chains.
    best_log_lik : float
        Largest log likelihood of all known points, in nats.
    best_log_lik_source : str
        Description of the fit that this point is from.
    learning_coefficient, learning_coefficient_mcse : float
        (WBIC + ``best_log_lik``) / log n, and its Monte Carlo standard error.
    dimension : NullDimension, or None
        Null dimension and rank of the model at generic weights and contexts. None for a model with
        more than `gptbayes.symmetry.dimension.MAX_PARAMETERS` parameters.
    """

    n_characters: int
    wbic: float
    mcse: float
    r_hat: float
    ess_bulk: float
    divergences: int
    best_log_lik: float
    best_log_lik_source: str
    learning_coefficient: float
    learning_coefficient_mcse: float
    dimension: NullDimension | None

    @property
    def learning_coefficient_bound(self) -> float:
        """Half the rank of the model; nan if the rank is unknown.

        Asymptotically an upper bound, which a regular model attains.
        """
        return self.dimension.rank / 2 if self.dimension else math.nan


def tempered_problem(problem: Problem) -> Problem:
    """Temper a problem for WBIC: likelihood weight 1 / log n.

    Parameters
    ----------
    problem : Problem

    Returns
    -------
    Problem

    Raises
    ------
    ValueError
        If there are fewer than 3 characters, where the weight would be above 1.
    """
    if problem.n_targets < 3:
        raise ValueError(f"WBIC needs at least 3 training characters, got {problem.n_targets}")
    return replace(problem, likelihood_weight=1 / math.log(problem.n_targets), n_new_tokens=0)


def wbic(
    run: FittedRun,
    others: Sequence[FittedRun] = (),
    *,
    settings: Mapping[str, object] | None = None,
    executor: Executor | None = None,
    on_progress: OnProgress | None = None,
) -> Wbic:
    """Fit the tempered posterior and estimate WBIC and the learning coefficient.

    The fit is stored in ``RUN/wbic``. The coefficient is global: it is that of the tempered
    posterior under the whole prior. Lau et al. (2023, section 4) estimate a local coefficient, with
    a chain that is confined to the neighborhood of one point.

    Parameters
    ----------
    run : FittedRun
        Of NUTS or HMC, with likelihood weight 1.
    others : sequence of FittedRun
        Further fits. Those of the same stage, sizes and masks are searched for the largest
        likelihood, which a mode usually has.
    settings, executor, on_progress
        As for `gptbayes.compare.exact_loo`.

    Returns
    -------
    Wbic

    Raises
    ------
    ValueError, RuntimeError
        As `gptbayes.fit.nuts`.
    """
    problem, folder = problem_of(run.idata), run.folder / "wbic"
    listen = combined_progress(f"{run.name}: WBIC", 0, 1, on_progress)
    refit(run, tempered_problem(problem), folder, settings, executor, listen)
    tempered = FittedRun("the tempered posterior", folder, open_run(folder))
    summary = summarise(-_log_lik(tempered))
    candidates = [run, *(each for each in others if _same_model(problem, each)), tempered]
    best = max(candidates, key=lambda each: float(_log_lik(each).max()))
    best_log_lik, log_n = float(_log_lik(best).max()), math.log(problem.n_targets)
    return Wbic(
        n_characters=problem.n_targets,
        wbic=float(summary["mean"]),
        mcse=float(summary["mcse_mean"]),
        r_hat=float(summary["r_hat"]),
        ess_bulk=float(summary["ess_bulk"]),
        divergences=int(tempered.idata.sample_stats["diverging"].sum()),
        best_log_lik=best_log_lik,
        best_log_lik_source=_origin(best),
        learning_coefficient=(float(summary["mean"]) + best_log_lik) / log_n,
        learning_coefficient_mcse=float(summary["mcse_mean"]) / log_n,
        dimension=_dimension(problem, int(run.idata.attrs["seed"])),
    )


def _log_lik(run):
    return run.idata.log_likelihood["log_lik"].sum(("sequence", "position"), skipna=False)


def _same_model(problem, other):
    other = problem_of(other.idata)
    if (other.stage, other.design) != (problem.stage, problem.design):
        return False
    masks = zip(other.stage.masks or (), problem.stage.masks or (), strict=True)
    return all(np.array_equal(*pair) for pair in masks)


def _origin(run):
    point = "the mode" if run.idata.attrs["method"] == "optimize" else "a draw"
    return f"{point} of {run.name}"


def _dimension(problem, seed):
    if problem.stage.n_parameters(problem.design) > MAX_PARAMETERS:
        return None
    return generic_null_dimension(problem, np.random.default_rng([seed, 3]))
