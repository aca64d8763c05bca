"""Waste-free sequential Monte Carlo (Dau & Chopin 2022) for any compiled Stan program.

The data of the program must have ``likelihood_weight``, which multiplies the log likelihood, and
its generated quantities must have ``log_lik``, the terms of the log likelihood. Particles move from
the prior, with likelihood weight 0, to the posterior, with weight 1, through intermediate levels.
Each level weights the particles of the level before, resamples some of them, and runs NUTS from
each. All draws of these chains are the particles of the level. The product of the mean weights
estimates the evidence, the marginal likelihood of the data. The first replicate chooses the levels.
The others use the same levels, so that their estimates of the evidence are unbiased.

This module does not depend on the model.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gptbayes.fit import tempering
from gptbayes.fit.checks import positive
from gptbayes.fit.directory import write_json
from gptbayes.fit.draws import Draws, read_csv
from gptbayes.fit.levels import Level, load_levels, run_level
from gptbayes.fit.programs import Program
from gptbayes.fit.remote import Workers
from gptbayes.fit.replicate import Replicate, Settings, csv_of, levels_of
from gptbayes.fit.transitions import log_density_of, log_lik_of
from gptbayes.fit.units import Progress, given_up_together
from gptbayes.processes import n_cores

__all__ = ["Settings", "Smc", "levels_of", "sequential_monte_carlo", "temper"]

DrawPrior = Callable[[int, np.random.Generator], Mapping[str, np.ndarray]]


class Smc(NamedTuple):
    """The result of sequential Monte Carlo.

    Attributes
    ----------
    draws : list of Draws
        Draws from the posterior of each replicate, with equal weights.
    levels : list of list of Level
        The levels of each replicate, from prior to posterior.
    log_evidence : float
        Log of the mean over replicates of the estimated evidence, in nats. The estimate of the
        first replicate, which chooses the levels, is slightly too small; the others are unbiased.
    log_evidence_se : float
        Its standard error from the spread of the replicates; nan for one replicate.
    """

    draws: list[Draws]
    levels: list[list[Level]]
    log_evidence: float
    log_evidence_se: float


def sequential_monte_carlo(
    executable: str | Path,
    data: Mapping[str, object],
    draw_prior: DrawPrior,
    folder: str | Path,
    *,
    replicates: int = 4,
    inverse_metric: np.ndarray | None = None,
    seed: int = 1,
    executor: Executor | None = None,
    on_progress: Callable[[list[Progress]], None] | None = None,
    **settings,
) -> Smc:
    """Sample the posterior of a Stan program from its prior, and estimate its evidence.

    Parameters
    ----------
    executable : path
        The compiled program, for example from `gptbayes.toolchain.compile_program`.
    data : mapping
        Its data, ready for JSON. ``likelihood_weight`` is that of the target, usually 1.
    draw_prior : callable
        ``draw_prior(n, rng)`` returns independent draws of every parameter from the prior: mapping
        of str to ndarray, each ``(n, shape in the program)``.
    folder : path
        Folder of the levels. An interrupted run resumes from it.
    replicates : int
        Number of independent runs. Their spread gives the standard error; four or more are
        recommended.
    inverse_metric : ndarray, (unconstrained parameter,), optional
        Inverse metric of NUTS, in the order of the program; 1 by default. With
        ``metric="particles"`` it is used at the first level only.
    seed : int
    executor : concurrent.futures.Executor, optional
        Runs the levels. By default a pool with one worker for each core of this machine.
    on_progress : callable, optional
        Called several times a second with the progress of all replicates.
    **settings
        Fields of `Settings`, such as ``chains``, ``moves``, ``ess`` and ``weights``. The metric
        "particles" needs a program without constrained parameters.

    Returns
    -------
    Smc

    Raises
    ------
    ValueError
        If the program has no ``likelihood_weight`` or no ``log_lik``, the weight does not multiply
        their sum, ``folder`` holds levels of another run, or a setting is out of range.
    RuntimeError
        If ``max_levels`` is reached, or CmdStan fails. Finished levels are kept.

    Examples
    --------
    The mean of ten normal observations with a normal prior, whose evidence has a closed form:

    >>> import tempfile
    >>> from pathlib import Path
    >>> import numpy as np
    >>> from scipy.stats import multivariate_normal
    >>> from gptbayes.fit.smc import sequential_monte_carlo
    >>> from gptbayes.toolchain import compile_program
    >>> folder = Path(tempfile.mkdtemp())
    >>> program = folder / "normal-mean.stan"
    >>> _ = program.write_text('''
    ... data {
    ...   int<lower=1> n;
    ...   vector[n] y;
    ...   real<lower=0> likelihood_weight;
    ... }
    ... parameters {
    ...   real mu;
    ... }
    ... model {
    ...   mu ~ normal(0, 2);
    ...   target += likelihood_weight * normal_lpdf(y | mu, 1);
    ... }
    ... generated quantities {
    ...   vector[n] log_lik;
    ...   for (i in 1:n) {
    ...     log_lik[i] = normal_lpdf(y[i] | mu, 1);
    ...   }
    ... }
    ... ''')
    >>> y = np.linspace(-1, 3, 10)
    >>> found = sequential_monte_carlo(
    ...     compile_program(program),
    ...     {"n": 10, "y": y.tolist(), "likelihood_weight": 1.0},
    ...     lambda n, rng: {"mu": rng.normal(0, 2, size=n)},
    ...     folder / "levels",
    ... )
    >>> exact = multivariate_normal(np.zeros(10), np.eye(10) + 4).logpdf(y)
    >>> bool(abs(found.log_evidence - exact) < 4 * found.log_evidence_se)
    True
    """
    chosen = Settings(**settings)
    _check_data(data, chosen)
    executable, folder = Path(executable).absolute(), Path(folder).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    _refuse_other(folder, data, chosen, replicates, seed)
    write_json(folder / "data.json", dict(data))
    _check_program(executable, folder, data, draw_prior)
    levels = temper(
        executable=executable,
        data=folder / "data.json",
        folder=folder,
        draw_prior=draw_prior,
        settings=chosen,
        replicates=replicates,
        inverse_metric=inverse_metric,
        seed=seed,
        executor=executor,
        on_progress=on_progress,
    )
    n_draws = chosen.chains * chosen.moves
    draws = [read_csv(csv_of(folder, k), n_draws) for k in range(1, replicates + 1)]
    value, se = tempering.log_evidence(np.array([each[-1].log_evidence for each in levels]))
    return Smc(draws, levels, value, se)


def temper(
    *, executable, data, folder, draw_prior, settings, replicates, inverse_metric, seed,
    program=None, executor=None, on_progress=None, on_complete=None,
) -> list[list[Level]]:  # fmt: skip
    """Run the levels that are missing; `sequential_monte_carlo` without its checks.

    Parameters
    ----------
    executable, data, folder : pathlib.Path
        The compiled program, its data, and where levels are kept.
    draw_prior : callable
        As for `sequential_monte_carlo`; what it returns may have ``log_lik`` too, ``(n, ...)``.
    settings : Settings
    replicates, inverse_metric, seed, executor, on_progress
        As for `sequential_monte_carlo`.
    program : callable, optional
        Tells other machines what the program is made of; by default, what is beside it.
    on_complete : callable, optional
        Called with the CSV file of each replicate that is complete, and with
        `gptbayes.fit.remote.Workers.setups`.

    Returns
    -------
    list of list of Level
        Of each replicate.
    """
    (replicates,) = positive(replicates=replicates)
    # Programs run in folders of their own, from where a relative path leads nowhere.
    executable, data, folder = (Path(each).absolute() for each in (executable, data, folder))
    metric = None
    if inverse_metric is not None:
        metric = folder / "metric.json"
        write_json(metric, {"inv_metric": np.asarray(inverse_metric, dtype=float).tolist()})
    first = Replicate(executable, data, folder, 1, settings, metric, seed)
    others = range(2, replicates + 1)
    running = [
        first,
        *(Replicate(executable, data, folder, k, settings, metric, seed, first) for k in others),
    ]
    for each in running:
        each.begin(draw_prior)

    def drive(executor):
        root = os.path.commonpath([folder, data.parent])
        of = program or (lambda: Program.of(executable))
        with Workers(executor, root, executable, of) as workers:
            _drive(running, workers, on_progress, on_complete)

    if executor is not None:
        drive(executor)
    elif not all(each.finished for each in running):
        with ThreadPoolExecutor(max_workers=min(replicates, n_cores())) as pool:
            drive(pool)
    return [each.levels for each in running]


def _drive(replicates, workers, on_progress, on_complete):
    """One level after the other of every replicate; after the first failure none that is new."""
    running: dict[Future, Any] = {}

    def submit():
        for replicate in replicates:
            if not replicate.finished and replicate.ready and replicate not in running.values():
                unit = replicate.next_unit()
                running[workers.submit(run_level, unit, unit.inputs)] = replicate
                replicate.begun = True

    def folders():
        return [work for each in replicates for work in each.folder.glob(".level-*-*")]

    with given_up_together(workers.executor, running, folders):
        submit()
        while running:
            for future in workers.wait(running):
                replicate = running.pop(future)
                if again := workers.receive(future):
                    running[again] = replicate
                    continue
                replicate.levels += load_levels(replicate.folder, len(replicate.levels))
                if replicate.finished and on_complete:
                    on_complete(replicate.csv, workers.setups)
            submit()
            if on_progress:
                on_progress([replicate.progress() for replicate in replicates])


def _check_data(data, settings):
    if "likelihood_weight" not in data:
        raise ValueError(f"data must have likelihood_weight, got {', '.join(data)}")
    weight = data["likelihood_weight"]
    if not weight > 0:
        raise ValueError(f"likelihood_weight must be positive, got {weight!r}: draw from the prior")
    if settings.weights and settings.weights[-1] != weight:
        raise ValueError(
            "the last of weights must be likelihood_weight, "
            f"got {settings.weights[-1]} and {weight}"
        )


def _refuse_other(folder, data, settings, replicates, seed):
    """Levels of other data or settings must not be mixed with these."""
    text = json.dumps(dict(data), sort_keys=True).encode()
    now = {**vars(settings), "seed": seed, "data_sha256": hashlib.sha256(text).hexdigest()}
    now = json.loads(json.dumps(now))
    path = folder / "smc.json"
    if path.exists():
        there = json.loads(path.read_text(encoding="utf-8"))
        for name, value in now.items():
            if there.get(name) != value:
                raise ValueError(
                    f"{folder} holds levels of another run: {name} is {there.get(name)!r} there, "
                    f"{value!r} here; choose another folder"
                )
    write_json(path, now)


def _check_program(executable, folder, data, draw_prior):
    """The log posterior must rise with the likelihood weight by exactly the sum of log_lik."""
    drawn = {k: v for k, v in draw_prior(3, np.random.default_rng(0)).items() if k != "log_lik"}
    log_lik = log_lik_of(executable, folder / "data.json", drawn, folder)
    if not np.isfinite(log_lik).all():
        return
    low, high = (
        log_density_of(executable, {**data, "likelihood_weight": weight}, drawn, folder)
        for weight in (0.0, 1.0)
    )
    gained = high - low
    if np.allclose(gained, 0, atol=1e-9) and not np.allclose(log_lik, 0, atol=1e-9):
        raise ValueError(
            "the program must have likelihood_weight in its data and multiply the log likelihood "
            "by it; its log density does not depend on it"
        )
    constant = (gained - log_lik).mean()  # a constant may be dropped from the target
    if not np.allclose(gained - constant, log_lik, rtol=1e-6, atol=1e-6):
        raise ValueError(
            "likelihood_weight must multiply the sum of log_lik; from weight 0 to 1 the log "
            f"density changes by {gained[0] - constant:.6g}, the sum is {log_lik[0]:.6g}"
        )
