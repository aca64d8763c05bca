"""Approximations of the posterior: Pathfinder, and modes by optimization."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from pathlib import Path

from gptbayes.fit.checks import chosen, positive
from gptbayes.fit.directory import run_directory
from gptbayes.fit.starts import mode_unit, path_unit, random_inits
from gptbayes.fit.units import Progress, run_units
from gptbayes.model.problem import Problem


def pathfinder(
    problem: Problem,
    out: str | Path,
    *,
    paths: int = 4,
    draws: int = 250,
    max_lbfgs_iters: int = 1000,
    kernels: str = "auto",
    seed: int = 1,
    only: str | None = None,
    executor: Executor | None = None,
    on_progress: Callable[[list[Progress]], None] | None = None,
) -> Path:
    """Approximate the posterior with Pathfinder (Zhang et al. 2022).

    Paths are run and stored separately, and their draws are neither weighted nor resampled. The
    analysis computes importance weights from ``lp`` and ``lp_approx`` and reports their Pareto k.

    Parameters
    ----------
    problem : Problem
    out : path
        The run directory. It is created if it does not exist, and continued if it holds a run of
        the same configuration.
    paths : int
        Number of independent paths. Each starts at a draw from the prior with twice its sd.
    draws : int
        Number of approximate draws from each path.
    max_lbfgs_iters : int
        Maximum number of L-BFGS iterations of each path.
    kernels, seed, executor, on_progress
        As for `nuts`.
    only : str, optional
        A path, such as "path-3", as for `nuts`.

    Returns
    -------
    pathlib.Path
        The run directory, for `gptbayes.inference.open_run`.

    Raises
    ------
    ValueError, RuntimeError
        As `nuts`.

    See Also
    --------
    nuts : Draws from the posterior itself.
    gptbayes.diagnostics.sampler.pareto_k : Diagnose the approximation.
    """
    paths, draws, max_lbfgs_iters = positive(
        paths=paths, draws=draws, max_lbfgs_iters=max_lbfgs_iters
    )
    settings = {"paths": paths, "draws": draws, "max_lbfgs_iters": max_lbfgs_iters}
    n_draws = paths * draws
    numbers, shared = chosen(only, "path", paths), only is not None
    with run_directory(
        problem, out, "pathfinder", settings, seed, n_draws, kernels=kernels, shared=shared
    ) as run:
        inits = random_inits(run, problem, paths)
        units = [
            path_unit(run, f"path {k}", inits[k - 1], k, draws, max_lbfgs_iters) for k in numbers
        ]
        run_units(run, units, executor, on_progress)
    return Path(out)


def optimize(
    problem: Problem,
    out: str | Path,
    *,
    starts: int = 4,
    max_iterations: int = 20_000,
    kernels: str = "auto",
    seed: int = 1,
    only: str | None = None,
    executor: Executor | None = None,
    on_progress: Callable[[list[Progress]], None] | None = None,
) -> Path:
    """Find posterior modes with L-BFGS.

    The tutorial fits its models by optimization. Here it is the baseline.

    Parameters
    ----------
    problem : Problem
    out : path
        The run directory. It is created if it does not exist, and continued if it holds a run of
        the same configuration.
    starts : int
        Number of random starting points. The analysis uses the mode with the largest log density.
    max_iterations : int
        Maximum number of L-BFGS iterations from each starting point.
    kernels, seed, executor, on_progress
        As for `nuts`.
    only : str, optional
        A start, such as "start-3", as for `nuts`.

    Returns
    -------
    pathlib.Path
        The run directory, for `gptbayes.inference.open_run`.

    Raises
    ------
    ValueError, RuntimeError
        As `nuts`.

    See Also
    --------
    nuts : Draws from the posterior.
    """
    starts, max_iterations = positive(starts=starts, max_iterations=max_iterations)
    settings = {"starts": starts, "max_iterations": max_iterations}
    numbers, shared = chosen(only, "start", starts), only is not None
    with run_directory(
        problem, out, "optimize", settings, seed, starts, kernels=kernels, shared=shared
    ) as run:
        inits = random_inits(run, problem, starts)
        units = [mode_unit(run, f"start {k}", inits[k - 1], max_iterations) for k in numbers]
        run_units(run, units, executor, on_progress)
    return Path(out)
