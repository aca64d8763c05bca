"""Starting points of chains, paths and optimizations."""

from __future__ import annotations

from collections.abc import Callable, Collection
from concurrent.futures import Executor
from pathlib import Path

import numpy as np

from gptbayes.fit.directory import Run, write_json
from gptbayes.fit.draws import read_csv
from gptbayes.fit.units import Progress, Unit, make_unit, run_units
from gptbayes.model.problem import Problem
from gptbayes.model.simulate import prior_draws

INITS = ("pathfinder", "random", "optimize")


def random_inits(run: Run, problem: Problem, count: int) -> list[Path]:
    """Write random starting points: draws from the prior with twice its sd.

    Parameters
    ----------
    run : Run
    problem : Problem
    count : int

    Returns
    -------
    list of pathlib.Path
        JSON files with initial values for CmdStan.
    """
    rng = np.random.default_rng(run.seed)
    draws = prior_draws(problem, count, rng, overdispersion=2.0)
    values = problem.stage.to_stan(draws, problem.design)
    return [_write_init(run, k, {n: v[k] for n, v in values.items()}) for k in range(count)]


def chain_inits(
    run: Run,
    problem: Problem,
    init: str,
    count: int,
    wanted: Collection[int],
    executor: Executor | None,
    on_progress: Callable[[list[Progress]], None] | None,
) -> dict[int, Path]:
    """Write starting points of chains of NUTS.

    Parameters
    ----------
    run : Run
    problem : Problem
    init : {"random", "pathfinder", "optimize"}
        As for `gptbayes.fit.nuts`.
    count : int
        Number of starting points.
    wanted : collection of int
        0-based, those that are used.
    executor, on_progress
        As for `gptbayes.fit.nuts`.

    Returns
    -------
    dict of int to pathlib.Path
        JSON files with initial values for CmdStan, of those that are wanted.

    Raises
    ------
    RuntimeError
        If a path or an optimization fails.
    """
    random = {k: path for k, path in enumerate(random_inits(run, problem, count)) if k in wanted}
    if init == "random":
        return random
    if init == "optimize":
        units = {
            k: mode_unit(run, f"mode {k + 1}", start, 20_000, "init") for k, start in random.items()
        }
    else:
        units = {
            k: path_unit(run, f"path {k + 1}", start, k + 1, 1, 1000, "init")
            for k, start in random.items()
        }
    run_units(run, list(units.values()), executor, on_progress)
    names = [parameter.name for parameter in problem.stage.parameters]
    inits = {}
    for k, unit in units.items():
        draws = read_csv(Path(unit.csv), 1).variables
        inits[k] = _write_init(run, k, {name: draws[name][0] for name in names}, init)
    return inits


def mode_unit(run: Run, label: str, init: Path, max_iterations: int, folder: str = "csv") -> Unit:
    """A unit of work that finds a posterior mode with L-BFGS from the starting point ``init``."""
    arguments = {"algorithm": "lbfgs", "iter": max_iterations, "require_converged": False}
    return make_unit(run, label, "optimize", {**arguments, "inits": str(init)}, folder=folder)


def path_unit(
    run: Run, label: str, init: Path, k: int, draws: int, max_lbfgs_iters: int, folder: str = "csv"
) -> Unit:
    """A unit of work that runs the ``k``-th Pathfinder path from the starting point ``init``."""
    arguments = {
        "num_paths": 1,
        "draws": draws,
        "psis_resample": False,
        "max_lbfgs_iters": max_lbfgs_iters,
        "inits": str(init),
        "seed": (run.seed + k) % 2**32,
    }
    return make_unit(run, label, "pathfinder", arguments, n_draws=draws, folder=folder)


def _write_init(run, k, values, kind="random"):
    path = run.folder / "init" / f"{kind}-{k + 1}.json"
    write_json(path, {name: np.asarray(value).tolist() for name, value in values.items()})
    return path
