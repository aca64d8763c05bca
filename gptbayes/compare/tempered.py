"""WBIC and the local learning coefficient, from a tempered posterior.

At the inverse temperature 1 / log n the posterior mean of the negative log likelihood is, to
leading orders, minus the log marginal likelihood, for singular models too (Watanabe 2013): the
widely applicable Bayesian information criterion. How far it is above the smallest negative log
likelihood, over log n, is the learning coefficient (Watanabe 2013, section 4; Lau et al. 2023):
half the number of parameters for a regular model, less for a singular one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from gptbayes.compare.refits import FittedRun, OnProgress, combined_progress, refit
from gptbayes.inference import open_run, problem_of
from gptbayes.model.problem import Problem
from gptbayes.stats.summary import summarise
from gptbayes.symmetry.dimension import MAX_PARAMETERS, NullDimension, generic_null_dimension


class Wbic(NamedTuple):
    """A run's WBIC and what follows from it.

    Attributes
    ----------
    n_characters : int
        n, the number of characters that the likelihood counts.
    wbic : float
        Nats; small is good. Its error as minus log marginal likelihood grows like √log n.
    mcse, r_hat, ess_bulk : float
        Monte Carlo error of ``wbic``, and diagnostics of the log likelihood under the tempered
        posterior.
    divergences : int
        Of the tempered chains.
    best_log_lik : float
        The largest log likelihood of any point known, nats.
    best_from : str
        Where that point is from.
    learning_coefficient, learning_coefficient_mcse : float
        (WBIC + ``best_log_lik``) / log n, and its Monte Carlo error.
    dimension : NullDimension, or None
        Of the model at generic weights and contexts: half its rank is the learning coefficient of
        a regular model, and an upper bound asymptotically. None for too large a model.
    """

    n_characters: int
    wbic: float
    mcse: float
    r_hat: float
    ess_bulk: float
    divergences: int
    best_log_lik: float
    best_from: str
    learning_coefficient: float
    learning_coefficient_mcse: float
    dimension: NullDimension | None

    @property
    def bound(self) -> float:
        """(P - null dimension) / 2; nan where the dimension is unknown."""
        return self.dimension.rank / 2 if self.dimension else math.nan


def tempered_problem(problem: Problem) -> Problem:
    """The same problem at the temperature of WBIC: likelihood weight 1 / log n.

    Raises
    ------
    ValueError
        If there are fewer than 3 characters: the weight would be above 1.
    """
    if problem.n_targets < 3:
        raise ValueError(f"WBIC needs at least 3 characters, got {problem.n_targets}")
    return replace(problem, likelihood_weight=1 / math.log(problem.n_targets), n_new_tokens=0)


def wbic(
    run: FittedRun,
    others: Sequence[FittedRun] = (),
    *,
    settings: Mapping[str, object] | None = None,
    executor: Executor | None = None,
    on_progress: OnProgress | None = None,
) -> Wbic:
    """Fit the tempered posterior in ``RUN/wbic``, and take WBIC and learning coefficient from it.

    The coefficient is that of the whole prior's tempered posterior: Lau et al. (2023, section 4)
    hold the chain near one point instead, which measures that point's neighbourhood alone.

    Parameters
    ----------
    run : Fitted
        Of NUTS, with likelihood weight 1.
    others : sequence of Fitted
        Those of the same stage, sizes and text help to find the largest likelihood, above all
        modes.
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
    hot = FittedRun("the tempered posterior", folder, open_run(folder))
    loss = -_log_lik(hot)
    summary = summarise(loss)
    known = [run, *(each for each in others if _same_model(problem, each)), hot]
    best = max(known, key=lambda each: float(_log_lik(each).max()))
    best_log_lik, log_n = float(_log_lik(best).max()), math.log(problem.n_targets)
    return Wbic(
        n_characters=problem.n_targets,
        wbic=float(summary["mean"]),
        mcse=float(summary["mcse_mean"]),
        r_hat=float(summary["r_hat"]),
        ess_bulk=float(summary["ess_bulk"]),
        divergences=int(hot.idata.sample_stats["diverging"].sum()),
        best_log_lik=best_log_lik,
        best_from=_origin(best),
        learning_coefficient=(float(summary["mean"]) + best_log_lik) / log_n,
        learning_coefficient_mcse=float(summary["mcse_mean"]) / log_n,
        dimension=_dimension(problem, int(run.idata.attrs["seed"])),
    )


def _log_lik(run):
    return run.idata.log_likelihood["log_lik"].sum(("sequence", "position"))


def _same_model(problem, other):
    theirs = problem_of(other.idata)
    if (theirs.stage, theirs.design) != (problem.stage, problem.design):
        return False
    masks = zip(theirs.stage.masks or (), problem.stage.masks or (), strict=True)
    return all(np.array_equal(*pair) for pair in masks)


def _origin(run):
    what = "the mode" if run.idata.attrs["method"] == "optimize" else "a draw"
    return f"{what} of {run.name}"


def _dimension(problem, seed):
    if problem.stage.n_parameters(problem.design) > MAX_PARAMETERS:
        return None
    return generic_null_dimension(problem, np.random.default_rng([seed, 3]))
