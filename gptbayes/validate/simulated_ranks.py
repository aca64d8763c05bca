"""Simulation-based calibration of any program, sampler and conversion together.

Each replicate draws parameters from the prior, simulates data from them, fits the data, and ranks
the true value of some quantities among their posterior draws. If all are correct, ranks are uniform
(Talts et al. 2018), also those of quantities that depend on the data, such as the likelihood
(Modrák et al. 2023). Parameters that a symmetry changes should not be ranked, since a sampler need
not visit all points that a symmetry connects.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from gptbayes import fit
from gptbayes.corpus import whole_number
from gptbayes.fit.directory import checked_seed, write_json
from gptbayes.fit.programs import Program
from gptbayes.fit.remote import Workers
from gptbayes.stats.uniformity import holm, uniformity_test
from gptbayes.toolchain import compile_program
from gptbayes.validate.experiment import Experiment, RankSettings, description_of
from gptbayes.validate.replicates import (
    Model,
    ProgramModel,
    Replicate,
    StageModel,
    run_replicate,
)


def calibrate(
    experiment: Experiment,
    out: str | Path,
    *,
    replicates: int,
    seed: int = 1,
    executor: Executor | None = None,
    on_progress: Callable[[list[fit.Progress]], None] | None = None,
) -> xr.Dataset:
    """Calibrate a stage: run the missing replicates of an experiment and collect all ranks.

    Parameters
    ----------
    experiment : Experiment
    out : path
        A folder with one small JSON file for each replicate. Finished replicates are not run
        again, and more replicates can be added later.
    replicates : int
        Number of replicates.
    seed : int
        Experiments with the same seed and the same data-generating model have the same parameters
        and texts.
    executor : concurrent.futures.Executor, optional
        Runs the replicates. By default a pool with one process for each core of this machine.
    on_progress : callable, optional
        Called several times a second with the number of finished replicates.

    Returns
    -------
    Dataset (replicate, quantity)
        ``rank`` and ``ess`` (replicate, quantity); ``n_draws``, ``divergences``,
        ``max_treedepth_hits``, ``seconds`` and ``init`` (replicate). ``init`` is "random" for
        replicates in which Pathfinder failed, and "prior" for sequential Monte Carlo. Attribute
        ``n_ranked``.

    Raises
    ------
    ValueError
        If ``out`` holds another experiment or a corrupted file, or an argument is out of range.
    RuntimeError
        If a fit fails. Finished replicates are kept.

    See Also
    --------
    gptbayes.stats.uniformity.uniformity_test : Test that the ranks are uniform.
    gptbayes.plots.plot_rank_ecdf : Plot the ranks.

    Examples
    --------
    Sixty-four replicates of stage 02 (needs CmdStan)::

        experiment = Experiment(toy_problem("02"))
        ranks = calibrate(experiment, "runs/calibration", replicates=64)
        uniformity_test(ranks["rank"], experiment.n_ranked)
    """
    replicates, seed = whole_number("replicates", replicates), checked_seed(seed)
    return _calibrate(
        StageModel(experiment),
        experiment.rank_settings,
        description_of(experiment, seed),
        Path(out),
        replicates,
        seed,
        executor or _processes,
        on_progress,
        lambda: fit.executable_of(experiment.fitted.stage),
    )


def sbc(
    program: str | Path,
    prior: Callable[[np.random.Generator], Mapping[str, Any]],
    simulate: Callable[[Mapping[str, np.ndarray], np.random.Generator], Mapping[str, Any]],
    quantities: Callable[[Mapping[str, np.ndarray], Mapping[str, Any]], Mapping[str, Any]],
    out: str | Path,
    *,
    replicates: int,
    n_ranked: int = 31,
    iter_warmup: int = 200,
    iter_sampling: int = 160,
    max_doublings: int = 3,
    adapt_delta: float = 0.8,
    seed: int = 1,
    executor: Executor | None = None,
    on_progress: Callable[[list[fit.Progress]], None] | None = None,
) -> xr.Dataset:
    """Calibrate any CmdStan program by simulation.

    Parameters
    ----------
    program : path
        A Stan program. It is compiled once and cached.
    prior : callable
        ``prior(rng)`` draws the parameters: mapping of str to array, by their names in the program.
    simulate : callable
        ``simulate(parameters, rng)`` simulates the data of the program, as CmdStan reads it.
    quantities : callable
        ``quantities(parameters, data)`` computes what is ranked: mapping of str to array (draw,).
        Parameters have a leading dim ``draw``; the true ones are a single draw.
    out : path
        A folder with one small JSON file for each replicate. Finished replicates are not run
        again, and more replicates can be added later.
    replicates : int
    n_ranked : int
        Number of posterior draws among which the true value is ranked.
    iter_warmup, iter_sampling : int
        Iterations of one chain of NUTS.
    max_doublings : int
        While the effective sample size of any quantity is below ``n_ranked``, the chain is run
        again with twice the draws, at most this many times.
    adapt_delta : float
    seed : int
    executor : concurrent.futures.Executor, optional
        Runs the replicates. By default one thread for each core: CmdStan is a process of its own.
        For processes the functions must be importable.
    on_progress : callable, optional
        Called several times a second with the number of finished replicates.

    Returns
    -------
    Dataset (replicate, quantity)
        As of `calibrate`.

    Raises
    ------
    ValueError
        If ``out`` holds another experiment (another program, function or setting), a quantity is
        not one finite number for each draw, or an argument is out of range.
    RuntimeError
        If a fit fails. Finished replicates are kept.

    See Also
    --------
    calibration_table : Tests of uniformity.
    gptbayes.plots.plot_rank_ecdf : The ranks with simultaneous bands.

    Examples
    --------
    The mean of five observations (needs CmdStan)::

        ranks = sbc(
            "mean.stan",
            lambda rng: {"mu": rng.normal()},
            lambda p, rng: {"N": 5, "y": rng.normal(p["mu"], 1, size=5)},
            lambda p, data: {"mu": p["mu"]},
            "runs/mean",
            replicates=64,
        )
        calibration_table(ranks)
    """
    replicates, seed = whole_number("replicates", replicates), checked_seed(seed)
    program = Path(program)
    executable = str(compile_program(program, [program.parent]))
    settings = RankSettings(n_ranked, iter_warmup, iter_sampling, max_doublings)
    functions = {"prior": prior, "simulate": simulate, "quantities": quantities}
    description = {
        "seed": seed,
        **settings._asdict(),
        "adapt_delta": adapt_delta,
        "program": hashlib.sha256(program.read_bytes()).hexdigest(),
        **{name: _source(function) for name, function in functions.items()},
    }
    return _calibrate(
        ProgramModel(executable, prior, simulate, quantities, adapt_delta),
        settings,
        description,
        Path(out),
        replicates,
        seed,
        executor or ThreadPoolExecutor,
        on_progress,
    )


def calibration_table(ranks: xr.Dataset) -> xr.Dataset:
    """Test the ranks of every quantity for uniformity.

    Parameters
    ----------
    ranks : Dataset (replicate, quantity)
        As of `sbc` or `calibrate`.

    Returns
    -------
    Dataset (quantity)
        The tests of `gptbayes.stats.uniformity.uniformity_test`; ``adjusted_p``, the p-value of
        the simultaneous band, adjusted for the number of quantities by Holm's method; and
        ``ess_min``, the smallest effective sample size of a replicate. If it is below
        ``n_ranked``, extreme ranks are too frequent because the draws are dependent.
    """
    tested = uniformity_test(ranks["rank"], ranks.attrs["n_ranked"])
    return tested.assign(
        adjusted_p=("quantity", holm(tested["band_p"].values)),
        ess_min=ranks["ess"].min("replicate"),
    )


def _calibrate(
    model: Model, settings, description, out, replicates, seed, executor, on_progress, prepare=None
):
    """Run the missing replicates of any model; ``executor`` may be a function that makes one."""
    settings.check()
    _check_same_experiment(out, description)
    units = [
        Replicate(model, settings, k, seed, str(out / f"replicate-{k:04d}.json"))
        for k in range(1, replicates + 1)
    ]
    missing = [unit for unit in units if not Path(unit.result).exists()]
    if missing and prepare is not None:
        prepare()  # compile once, before the replicates start
    if missing and isinstance(executor, Executor):
        _run(missing, len(units), executor, on_progress, out)
    elif missing:
        with executor() as pool:
            _run(missing, len(units), pool, on_progress, out)
    return _collect([_read(Path(unit.result)) for unit in units], settings.n_ranked)


def _processes():
    return ProcessPoolExecutor(mp_context=get_context("spawn"))


def _source(function):
    """What a function does, so that another one is another experiment."""
    try:
        return inspect.getsource(function)
    except (OSError, TypeError):
        return getattr(function, "__qualname__", type(function).__qualname__)


def _run(missing, total, executor, on_progress, out):
    """Run all missing replicates. After the first failure or Ctrl-C, cancel those that wait."""
    executable = getattr(missing[0].model, "executable", None)
    program = (lambda: Program.of(Path(executable))) if executable else None
    with Workers(executor, out, executable or "", program) as workers:
        pending = {workers.submit(run_replicate, unit): unit for unit in missing}
        try:
            while pending:
                for future in workers.wait(pending):
                    unit = pending.pop(future)
                    if again := workers.receive(future):
                        pending[again] = unit
                if on_progress:
                    on_progress([fit.Progress(out.name, total - len(pending), total, True)])
        finally:
            for future in pending:
                future.cancel()


def _check_same_experiment(out, description):
    path = out / "experiment.json"
    if not path.exists():
        out.mkdir(parents=True, exist_ok=True)
        write_json(path, description)
        return
    existing = _read(path)
    for name, value in description.items():
        if value != existing.get(name):
            raise ValueError(
                f"{out} holds another experiment: {name} is {existing.get(name)!r} there, "
                f"{value!r} here; choose another folder"
            )


def _read(path):
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # an OSError says itself what happened
        raise ValueError(f"{path} is corrupted ({error}); delete it to run it again") from None


def _collect(results, n_ranked):
    names = list(results[0]["rank"])
    tables = {
        name: (
            ("replicate", "quantity"),
            np.array([[result[name][quantity] for quantity in names] for result in results]),
        )
        for name in ("rank", "ess")
    }
    columns = {
        name: ("replicate", np.array([result[name] for result in results]))
        for name in ("n_draws", "divergences", "max_treedepth_hits", "seconds", "init")
    }
    coords = {"replicate": np.arange(1, len(results) + 1), "quantity": names}
    return xr.Dataset({**tables, **columns}, coords, attrs={"n_ranked": n_ranked})
