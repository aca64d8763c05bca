"""Simulation-based calibration of programs, sampler and conversion together.

Each replicate draws parameters from the prior, simulates a text from them, fits the text with
`gptbayes.fit.nuts` or `gptbayes.fit.smc`, and ranks the true value of some quantities among their
posterior draws. If programs, sampler and conversion are correct, ranks are uniform (Talts et al.
2018), also those of quantities that depend on the data, such as the likelihood (Modrák et al.
2023). Single parameters are not ranked, because a sampler need not visit all points that a symmetry
connects. Predictions and marginals without data are ranked instead, see
`gptbayes.validate.ranked_quantities`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, Executor, ProcessPoolExecutor, wait
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import xarray as xr

from gptbayes import fit
from gptbayes.corpus import whole_number
from gptbayes.fit.directory import checked_seed, write_json
from gptbayes.validate.experiment import Experiment, description_of
from gptbayes.validate.replicates import Replicate, run_replicate


def calibrate(
    experiment: Experiment,
    out: str | Path,
    *,
    replicates: int,
    seed: int = 1,
    executor: Executor | None = None,
    on_progress: Callable[[list[fit.Progress]], None] | None = None,
) -> xr.Dataset:
    """Run the missing replicates of an experiment and collect the ranks of all replicates.

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
    out = Path(out)
    _check_same_experiment(out, description_of(experiment, seed))
    units = [
        Replicate(experiment, k, seed, str(out / f"replicate-{k:04d}.json"))
        for k in range(1, replicates + 1)
    ]
    missing = [unit for unit in units if not Path(unit.result).exists()]
    if missing:
        fit.executable_of(experiment.fitted.stage)  # compile once, before the replicates start
        if executor is not None:
            _run(missing, len(units), executor, on_progress, out.name)
        else:
            with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
                _run(missing, len(units), pool, on_progress, out.name)
    return _collect([_read(Path(unit.result)) for unit in units], experiment.n_ranked)


def _run(missing, total, executor, on_progress, label):
    """Run all missing replicates. After the first failure or Ctrl-C, cancel those that wait."""
    futures = [executor.submit(run_replicate, unit) for unit in missing]
    pending = set(futures)
    try:
        while pending:
            finished, pending = wait(pending, timeout=0.5, return_when=FIRST_EXCEPTION)
            for future in finished:
                future.result()
            if on_progress:
                done = total - sum(not future.done() for future in futures)
                on_progress([fit.Progress(label, done, total, True)])
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
