"""Fit a problem with NUTS, Pathfinder, SMC or by optimisation; the only importer of cmdstanpy.

A fit is a directory. Its unit of work is one chain, one path, one start of the optimiser or one
level of a replicate: each ends as one file that is moved into place when it is complete. A fit
that was interrupted goes on with the units that are missing, and a unit run again with its seed
gives the same draws.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from gptbayes.fit.directory import read_config, read_problem, run_directory, write_json
from gptbayes.fit.draws import Draws, iter_draws, n_units, read_csv, read_draws, write_csv
from gptbayes.fit.levels import Level
from gptbayes.fit.programs import KERNELS, executable_of
from gptbayes.fit.smc import Settings, Smc, levels_of, sequential_monte_carlo, temper
from gptbayes.fit.units import Progress, Unit, run_unit, run_units, unit_of
from gptbayes.model.forward import token_log_prob
from gptbayes.model.problem import Problem
from gptbayes.model.simulate import generate_text, log_prior, prior_draws

__all__ = [
    "INITS",
    "KERNELS",
    "METRICS",
    "Draws",
    "Level",
    "Progress",
    "Smc",
    "Unit",
    "executable_of",
    "iter_draws",
    "levels_of",
    "n_units",
    "nuts",
    "optimize",
    "pathfinder",
    "prior",
    "read_config",
    "read_csv",
    "read_draws",
    "read_problem",
    "run_unit",
    "sequential_monte_carlo",
    "smc",
    "start_of_chain",
]

INITS = ("pathfinder", "random", "optimize")
METRICS = ("prior", "diag_e", "dense_e", "unit_e")
STAN_WINDOWS = (75, 25, 50)  # iterations, the least that Stan's adaptation of a metric needs
N_MESSAGES = 200
"""About how often a chain says how far it is: each message is read, and costs a little."""


def nuts(
    problem: Problem,
    out: str | Path,
    *,
    chains: int = 4,
    superchains: int | None = None,
    iter_warmup: int = 300,
    iter_sampling: int = 500,
    init: str = "random",
    metric: str = "prior",
    adapt_delta: float = 0.8,
    max_treedepth: int = 10,
    kernels: str = "auto",
    seed: int = 1,
    executor: Executor | None = None,
    on_progress: Callable[[list[Progress]], None] | None = None,
) -> Path:
    """Sample from the posterior with the No-U-Turn sampler (Hoffman & Gelman 2014).

    Parameters
    ----------
    problem : Problem
    out : path
        The run directory; made if it is not there, continued if it is of the same configuration.
    chains, iter_warmup, iter_sampling : int
    superchains : int, optional
        Divides ``chains``: so many starting points, and as many chains from each, which differ
        by their random numbers, for nested R-hat (Margossian et al. 2024). By default each
        chain has a starting point of its own. `gptbayes.inference.superchains_of` tells which
        chains belong together.
    init : {"pathfinder", "random", "optimize"}
        Start every chain from a draw of a Pathfinder path of its own, from a random point with
        twice the prior's sd, or from the mode that L-BFGS finds from there, as the members of a
        deep ensemble do (Lakshminarayanan et al. 2017; Sommer et al. 2024). Random points are
        over-dispersed; the others are not, and modes lie above all draws.
    metric : {"prior", "diag_e", "dense_e", "unit_e"}
        "prior": the inverse metric is the variance of the prior throughout, and only the step size
        is adapted; the same as unit scales for parameters in units of their prior sd. The others
        are Stan's: a diagonal or dense one estimated during warm-up (of 20 iterations or more), or
        the identity.
    adapt_delta : float
        Target acceptance statistic of the step-size adaptation.
    max_treedepth : int
    kernels : {"auto", "stan", "c++"}
        What computes the likelihood: plain Stan, or C++ with an analytic gradient, which is the
        same up to rounding and many times faster. "auto" is C++ where it can be compiled.
    seed : int
    executor : concurrent.futures.Executor, optional
        Runs the chains; a pool of this machine's cores by default.
    on_progress : callable, optional
        Called now and then with the progress of all chains.

    Returns
    -------
    pathlib.Path
        The run directory, for `gptbayes.inference.open_run`.

    Raises
    ------
    ValueError
        For unusable settings, or if ``out`` is a run of another configuration.
    RuntimeError
        If a chain fails; finished chains are kept.
    """
    _check_one_of("init", init, INITS)
    _check_one_of("metric", metric, METRICS)
    _check_positive(chains=chains, iter_warmup=iter_warmup, iter_sampling=iter_sampling)
    _check_positive(max_treedepth=max_treedepth)
    _check_superchains(chains, superchains)
    if not 0 < adapt_delta < 1:
        raise ValueError(f"adapt_delta must be between 0 and 1, got {adapt_delta}")
    settings = {
        "chains": chains,
        "superchains": superchains,
        "iter_warmup": iter_warmup,
        "iter_sampling": iter_sampling,
        "init": init,
        "metric": metric,
        "adapt_delta": adapt_delta,
        "max_treedepth": max_treedepth,
    }
    arguments = {
        "chains": 1,
        "iter_warmup": iter_warmup,
        "iter_sampling": iter_sampling,
        "adapt_delta": adapt_delta,
        "max_treedepth": max_treedepth,
        "refresh": max(1, (iter_warmup + iter_sampling) // N_MESSAGES),
        "show_progress": False,
    }
    n_draws = chains * iter_sampling
    with run_directory(problem, out, "nuts", settings, seed, n_draws, kernels=kernels) as run:
        starts = superchains or chains
        inits = _nuts_inits(run, problem, init, starts, executor, on_progress)
        arguments |= _metric_arguments(run, problem, metric, iter_warmup)
        units = [
            unit_of(
                run,
                f"chain {k}",
                "sample",
                {**arguments, "chain_ids": [k], "inits": str(inits[start])},
                total=iter_warmup + iter_sampling,
                n_draws=iter_sampling,
            )
            for k, start in zip(_ids(chains), start_of_chain(chains, superchains), strict=True)
        ]
        run_units(units, executor, on_progress)
    return run.folder


def start_of_chain(chains: int, superchains: int | None) -> list[int]:
    """Which starting point each chain of `nuts` has, counted from 0: chains of one are neighbours.

    Parameters
    ----------
    chains : int
    superchains : int or None
        As for `nuts`.

    Returns
    -------
    list of int, (chain,)
    """
    return [k * (superchains or chains) // chains for k in range(chains)]


def pathfinder(
    problem: Problem,
    out: str | Path,
    *,
    paths: int = 4,
    draws: int = 250,
    max_lbfgs_iters: int = 1000,
    kernels: str = "auto",
    seed: int = 1,
    executor: Executor | None = None,
    on_progress: Callable[[list[Progress]], None] | None = None,
) -> Path:
    """Approximate the posterior with Pathfinder (Zhang et al. 2022).

    Every path is run and kept by itself, and its draws are neither weighted nor resampled: what
    importance weights make of them, and whether they can be believed, is the analysis's to say.

    Parameters
    ----------
    problem : Problem
    out : path
        The run directory; made if it is not there, continued if it is of the same configuration.
    paths : int
        Number of independent paths, each from a random point with twice the prior's sd.
    draws : int
        Approximate draws from each path.
    max_lbfgs_iters : int
    kernels, seed, executor, on_progress
        As for `nuts`.

    Returns
    -------
    pathlib.Path
        The run directory, for `gptbayes.inference.open_run`.

    Raises
    ------
    ValueError, RuntimeError
        As `nuts`.
    """
    _check_positive(paths=paths, draws=draws, max_lbfgs_iters=max_lbfgs_iters)
    settings = {"paths": paths, "draws": draws, "max_lbfgs_iters": max_lbfgs_iters}
    n_draws = paths * draws
    with run_directory(problem, out, "pathfinder", settings, seed, n_draws, kernels=kernels) as run:
        inits = _random_inits(run, problem, paths)
        units = [
            _path_unit(run, f"path {k}", inits[k - 1], k, draws, max_lbfgs_iters)
            for k in range(1, paths + 1)
        ]
        run_units(units, executor, on_progress)
    return run.folder


def optimize(
    problem: Problem,
    out: str | Path,
    *,
    starts: int = 4,
    max_iterations: int = 20_000,
    kernels: str = "auto",
    seed: int = 1,
    executor: Executor | None = None,
    on_progress: Callable[[list[Progress]], None] | None = None,
) -> Path:
    """Find a posterior mode with L-BFGS, as the tutorial does; the baseline.

    Parameters
    ----------
    problem : Problem
    out : path
        The run directory; made if it is not there, continued if it is of the same configuration.
    starts : int
        Random starting points; the best of the modes found is the one that is analysed.
    max_iterations : int
    kernels, seed, executor, on_progress
        As for `nuts`.

    Returns
    -------
    pathlib.Path
        The run directory, for `gptbayes.inference.open_run`.

    Raises
    ------
    ValueError, RuntimeError
        As `nuts`.
    """
    _check_positive(starts=starts, max_iterations=max_iterations)
    settings = {"starts": starts, "max_iterations": max_iterations}
    with run_directory(problem, out, "optimize", settings, seed, starts, kernels=kernels) as run:
        inits = _random_inits(run, problem, starts)
        units = [_mode_unit(run, f"start {k}", inits[k - 1], max_iterations) for k in _ids(starts)]
        run_units(units, executor, on_progress)
    return run.folder


def prior(problem: Problem, out: str | Path, *, draws: int = 1000, seed: int = 1) -> Path:
    """Draw from the prior, independently, and see what it would have said.

    Needs no Stan: the draws are numpy's, and so are their ``log_lik`` and ``new_tokens``.

    Parameters
    ----------
    problem : Problem
        Its likelihood weight is taken to be 0.
    out : path
        The run directory; made if it is not there, left as it is when it is finished.
    draws : int
    seed : int

    Returns
    -------
    pathlib.Path
        The run directory, for `gptbayes.inference.open_run`.

    Raises
    ------
    ValueError, RuntimeError
        As `nuts`.
    """
    _check_positive(draws=draws)
    problem = replace(problem, likelihood_weight=0.0)
    with run_directory(problem, out, "prior", {"draws": draws}, seed, draws, stan=False) as run:
        csv = run.folder / "csv" / "prior-1.csv"
        if not csv.exists():
            write_csv(csv, _prior_variables(problem, draws, np.random.default_rng(seed)))
    return run.folder


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
    max_treedepth: int = 10,
    max_levels: int = 200,
    kernels: str = "auto",
    seed: int = 1,
    executor: Executor | None = None,
    on_progress: Callable[[list[Progress]], None] | None = None,
) -> Path:
    """Go from the prior to the posterior by waste-free sequential Monte Carlo (Dau & Chopin 2022).

    It gives draws, as `nuts` does, and the evidence beside them. Chains that stay in a poor mode
    die out, so that modes get the mass that they have, as far as the levels where they part have
    particles in each. Needs no warm-up: the metric is the prior's, and the step size follows from
    the acceptance of the level before.

    Parameters
    ----------
    problem : Problem
    out : path
        The run directory; made if it is not there, continued if it is of the same configuration.
    replicates : int
        Independent runs. Their spread is the standard error of the evidence and of the masses of
        modes; with one there is none.
    chains, moves : int
        At each level so many particles are resampled, and each starts a chain of so many draws:
        ``chains * moves`` particles for each replicate.
    ess : float
        The next level is where the weights' effective sample size is this share of the particles.
    weights : sequence of float, optional
        Likelihood weights of the levels instead, rising to that of the problem.
    step_size : float, optional
        Of NUTS at the first level; by default Stan's adaptation finds it.
    max_treedepth : int
    max_levels : int
        After so many the run fails, and what there is is kept.
    kernels, seed, executor, on_progress
        As for `nuts`. The unit of work is a level of a replicate.

    Returns
    -------
    pathlib.Path
        The run directory, for `gptbayes.inference.open_run`.

    Raises
    ------
    ValueError, RuntimeError
        As `nuts`, and if levels do not end.
    """
    _check_positive(replicates=replicates)
    if not problem.likelihood_weight > 0:
        raise ValueError(
            f"likelihood_weight must be positive for smc, got {problem.likelihood_weight}: "
            "the prior method draws from the prior"
        )
    if weights is not None and weights[-1] != problem.likelihood_weight:
        raise ValueError(
            "the last of weights must be the problem's likelihood_weight, got "
            f"{weights[-1]} and {problem.likelihood_weight}"
        )
    chosen = Settings(
        chains=chains,
        moves=moves,
        ess=ess,
        weights=tuple(weights) if weights is not None else None,
        step_size=step_size,
        max_treedepth=max_treedepth,
        max_levels=max_levels,
    )
    listed = {**asdict(chosen), "weights": list(weights) if weights is not None else None}
    settings = {"replicates": replicates, **listed, "draws": chains * moves}
    n_draws = 2 * replicates * chains * moves  # the newest level's particles are there as well

    def draw_prior(n, rng):
        drawn = prior_draws(problem, n, rng)
        log_lik = token_log_prob(problem.stage, drawn, problem.training)
        return {**problem.stage.to_stan(drawn, problem.design), "log_lik": log_lik}

    with run_directory(problem, out, "smc", settings, seed, n_draws, kernels=kernels) as run:
        temper(
            executable=run.executable,
            data=run.folder / "data.json",
            folder=run.folder / "csv",
            draw_prior=draw_prior,
            settings=chosen,
            replicates=replicates,
            inverse_metric=prior_variances(problem),
            seed=seed,
            executor=executor,
            on_progress=on_progress,
        )
    return run.folder


def _prior_variables(problem, n_draws, rng):
    """What Stan would have written of each draw: parameters and generated quantities."""
    stage, design = problem.stage, problem.design
    drawn = prior_draws(problem, n_draws, rng)
    text = generate_text(stage, drawn, problem.prompt, problem.n_new_tokens, design.block_size, rng)
    return {
        "lp__": log_prior(problem, drawn),
        **stage.to_stan(drawn, design),
        "log_lik": token_log_prob(stage, drawn, problem.training),
        "new_tokens": text + 1,
    }


def _metric_arguments(run, problem, metric, iter_warmup):
    """For `cmdstanpy.CmdStanModel.sample`, with the windows of adaptation where it matters."""
    windows = ("adapt_init_phase", "adapt_metric_window", "adapt_step_size")
    if metric == "prior":
        path = run.folder / "init" / "metric.json"
        write_json(path, {"inv_metric": prior_variances(problem).tolist()})
        # Of no length, the window after which Stan would put an estimate in its place never ends.
        lengths = dict(zip(windows, (0, 0, iter_warmup), strict=True))
        return {"metric": "diag_e", "inv_metric": str(path), **lengths}
    if metric == "unit_e" or not 20 <= iter_warmup < sum(STAN_WINDOWS):
        return {"metric": metric}
    # Stan says that it shortens its windows to fit, and then estimates nothing (stan#3380).
    first, last = int(0.15 * iter_warmup), int(0.1 * iter_warmup)
    lengths = (first, iter_warmup - first - last, last)
    return {"metric": metric, **dict(zip(windows, lengths, strict=True))}


def prior_variances(problem: Problem) -> np.ndarray:
    """The prior variance of every parameter, in the order of the Stan program."""
    stage, design, priors = problem.stage, problem.design, problem.priors
    return np.concatenate(
        [
            np.full(np.prod(stage.shape(p, design), dtype=int), priors.scale(p) ** 2)
            for p in stage.parameters
        ]
    )


def _random_inits(run, problem, count):
    rng = np.random.default_rng(run.seed)
    draws = prior_draws(problem, count, rng, widen=2.0)
    values = problem.stage.to_stan(draws, problem.design)
    return [_write_init(run, k, {n: v[k - 1] for n, v in values.items()}) for k in _ids(count)]


def _nuts_inits(run, problem, init, count, executor, on_progress):
    random = _random_inits(run, problem, count)
    if init == "random":
        return random
    if init == "optimize":
        units = [_mode_unit(run, f"mode {k}", random[k - 1], 20_000, "init") for k in _ids(count)]
    else:
        units = [
            _path_unit(run, f"path {k}", random[k - 1], k, 1, 1000, "init") for k in _ids(count)
        ]
    run_units(units, executor, on_progress)
    names = [parameter.name for parameter in problem.stage.parameters]
    inits = []
    for k, unit in zip(_ids(count), units, strict=True):
        draws = read_csv(Path(unit.csv), 1).variables
        inits.append(_write_init(run, k, {name: draws[name][0] for name in names}, init))
    return inits


def _mode_unit(run, label, init, max_iterations, folder="csv"):
    arguments = {"algorithm": "lbfgs", "iter": max_iterations, "require_converged": False}
    return unit_of(run, label, "optimize", {**arguments, "inits": str(init)}, folder=folder)


def _path_unit(run, label, init, k, draws, max_lbfgs_iters, folder="csv"):
    arguments = {
        "num_paths": 1,
        "draws": draws,
        "psis_resample": False,
        "max_lbfgs_iters": max_lbfgs_iters,
        "inits": str(init),
        "seed": (run.seed + k) % 2**32,
    }
    return unit_of(run, label, "pathfinder", arguments, n_draws=draws, folder=folder)


def _write_init(run, k, values, kind="random"):
    path = run.folder / "init" / f"{kind}-{k}.json"
    write_json(path, {name: np.asarray(value).tolist() for name, value in values.items()})
    return path


def _ids(count):
    return range(1, count + 1)


def _check_one_of(name, value, valid):
    if value not in valid:
        raise ValueError(f"{name} must be one of {', '.join(valid)}, got {value!r}")


def _check_superchains(chains, superchains):
    if superchains is None:
        return
    _check_positive(superchains=superchains)
    if chains % superchains:
        raise ValueError(f"superchains must divide chains, got {superchains} and {chains}")


def _check_positive(**values):
    for name, value in values.items():
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be a positive integer, got {value!r}")
