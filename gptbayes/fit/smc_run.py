"""Run directories of sequential Monte Carlo."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import asdict
from pathlib import Path

from gptbayes.fit import manifest
from gptbayes.fit.chains import prior_variances
from gptbayes.fit.checks import positive
from gptbayes.fit.directory import note_setups, run_directory
from gptbayes.fit.replicate import Settings, csv_of
from gptbayes.fit.smc import temper
from gptbayes.fit.units import Progress
from gptbayes.model.forward import token_log_prob
from gptbayes.model.problem import Problem
from gptbayes.model.simulate import prior_draws


def smc(
    problem: Problem,
    out: str | Path,
    *,
    replicates: int = 4,
    chains: int = 32,
    moves: int = 8,
    ess: float = 0.5,
    weights: Sequence[float] | None = None,
    step_size: float | None = None,
    metric: str = "prior",
    max_treedepth: int = 10,
    max_levels: int = 200,
    kernels: str = "auto",
    seed: int = 1,
    executor: Executor | None = None,
    on_progress: Callable[[list[Progress]], None] | None = None,
) -> Path:
    """Sample from the posterior by waste-free sequential Monte Carlo (Dau & Chopin 2022).

    Particles move from the prior to the posterior through levels with increasing likelihood weight.
    The result has draws, as that of `nuts`, and an estimate of the evidence. Resampling gives each
    mode its mass, if there are particles in it at the level where it separates from the others.
    There is no warm-up: the inverse metric of NUTS is the prior variance, and the step size of a
    level follows from the acceptance of the level before.

    Parameters
    ----------
    problem : Problem
    out : path
        The run directory. It is created if it does not exist, and continued if it holds a run of
        the same configuration.
    replicates : int
        Number of independent runs. Their spread gives the standard errors of the evidence and of
        the masses of modes, which are unknown with one replicate.
    chains, moves : int
        At each level ``chains`` particles are resampled, and each starts a chain of ``moves``
        draws: a replicate has ``chains * moves`` particles.
    ess : float
        The likelihood weight of the next level is such that the effective sample size of the
        importance weights is this fraction of the number of particles.
    weights : sequence of float, optional
        Likelihood weights of the levels, which replace ``ess``. They increase to that of the
        problem.
    step_size : float, optional
        Step size of NUTS at the first level. By default it is found by Stan's adaptation.
    metric : {"prior", "particles"}
        Inverse metric of NUTS. "prior": the prior variances. "particles": from level 2 on, the
        variances of the particles of the level before.
    max_treedepth : int
    max_levels : int
        Maximum number of levels. If it is reached, the run fails, and finished levels are kept.
    kernels, seed, executor, on_progress
        As for `nuts`. The unit of work is a level of a replicate.

    Returns
    -------
    pathlib.Path
        The run directory, for `gptbayes.inference.open_run`.

    Raises
    ------
    ValueError, RuntimeError
        As `nuts`, or if ``max_levels`` is reached.
    """
    (replicates,) = positive(replicates=replicates)
    if not problem.likelihood_weight > 0:
        raise ValueError(
            f"likelihood_weight must be positive for smc, got {problem.likelihood_weight}: "
            "the prior method draws from the prior"
        )
    chosen = Settings(
        chains=chains,
        moves=moves,
        ess=ess,
        weights=tuple(weights) if weights is not None else None,
        step_size=step_size,
        metric=metric,
        max_treedepth=max_treedepth,
        max_levels=max_levels,
    )
    weights = chosen.weights
    if weights is not None and weights[-1] != problem.likelihood_weight:
        raise ValueError(
            "the last of weights must be the problem's likelihood_weight, got "
            f"{weights[-1]} and {problem.likelihood_weight}"
        )
    listed = {**asdict(chosen), "weights": list(weights) if weights is not None else None}
    settings = {"replicates": replicates, **listed, "draws": chosen.chains * chosen.moves}
    n_draws = (
        2 * replicates * chosen.chains * chosen.moves
    )  # the newest level's particles are there as well

    def draw_prior(n, rng):
        drawn = prior_draws(problem, n, rng)
        log_lik = token_log_prob(problem.stage, drawn, problem.training)
        return {**problem.stage.to_stan(drawn, problem.design), "log_lik": log_lik}

    with run_directory(problem, out, "smc", settings, seed, n_draws, kernels=kernels) as run:
        there = [
            path for k in range(replicates) if (path := csv_of(run.folder / "csv", k + 1)).exists()
        ]
        for path in there:
            manifest.verify(run.folder, path, "delete it and run the same fit again")

        def record(csv, setups):
            manifest.record(run.folder, [csv])
            note_setups(run.folder, setups)

        temper(
            executable=run.executable,
            data=run.folder / "data.json",
            folder=run.folder / "csv",
            draw_prior=draw_prior,
            settings=chosen,
            replicates=replicates,
            inverse_metric=prior_variances(problem),
            seed=seed,
            program=run.program,
            executor=executor,
            on_progress=on_progress,
            on_complete=record,
        )
    return Path(out)
