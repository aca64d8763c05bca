"""Waste-free sequential Monte Carlo (Dau & Chopin 2022) for any compiled Stan program.

The program has ``likelihood_weight`` in its data, which multiplies the log likelihood, and
``log_lik`` in its generated quantities, its terms. Particles go from the prior, weight 0, to the
posterior, weight 1, through levels between them: each level weighs the particles of the one before,
resamples a few of them, and runs NUTS from each; all the draws of these chains are its particles.
The mean weights multiply to the evidence, the marginal likelihood of the data.

Nothing here knows what the model is.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gptbayes.fit import tempering
from gptbayes.fit.directory import write_json
from gptbayes.fit.draws import Draws, read_csv
from gptbayes.fit.levels import (
    Level,
    LevelUnit,
    keep_prior,
    load_levels,
    log_density_of,
    log_lik_of,
    run_level,
)
from gptbayes.fit.units import Progress, n_cores

DrawPrior = Callable[[int, np.random.Generator], Mapping[str, np.ndarray]]


class Smc(NamedTuple):
    """What sequential Monte Carlo found.

    Attributes
    ----------
    draws : list of Draws
        Of the posterior, those of one replicate each; every draw has the same weight.
    levels : list of list of Level
        The path from prior to posterior of each replicate.
    log_evidence : float
        Log of the mean over replicates of the estimated evidence, nats.
    log_evidence_se : float
        Its standard error from the spread of the replicates; nan if there is only one.
    """

    draws: list[Draws]
    levels: list[list[Level]]
    log_evidence: float
    log_evidence_se: float


@dataclass(frozen=True)
class Settings:
    """Of every replicate, JSON-ready.

    Attributes
    ----------
    chains : int
        Particles that are resampled at each level, each of which starts a chain.
    moves : int
        Draws of each chain: ``chains * moves`` are the particles of a level.
    ess : float
        Effective sample size of the weights that chooses the next level, as a share of the
        particles.
    weights : tuple of float, optional
        The levels' likelihood weights, rising, the last that of the posterior: a schedule that is
        fixed instead.
    step_size : float, optional
        Of NUTS at level 1; by default Stan's adaptation finds it.
    max_treedepth : int
    max_levels : int
    """

    chains: int = 32
    moves: int = 8
    ess: float = 0.5
    weights: tuple[float, ...] | None = None
    step_size: float | None = None
    max_treedepth: int = 10
    max_levels: int = 200

    def __post_init__(self):
        for name in ("chains", "moves", "max_treedepth", "max_levels"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a positive integer, got {value!r}")
        if self.chains * self.moves < 4:
            raise ValueError(
                "chains * moves must be at least 4 particles, "
                f"got {self.chains} chains of {self.moves}"
            )
        if not 0 < self.ess < 1:
            raise ValueError(f"ess must be between 0 and 1, got {self.ess}")
        if self.step_size is not None and not self.step_size > 0:
            raise ValueError(f"step_size must be positive, got {self.step_size}")
        rising = (0.0, *(self.weights or (1.0,)))
        if any(a >= b for a, b in zip(rising[:-1], rising[1:], strict=True)):
            raise ValueError(f"weights must rise from above 0, got {self.weights}")


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
        The compiled program, for example by `gptbayes.toolchain.compile_program`.
    data : mapping
        Its data, JSON-ready. ``likelihood_weight`` is that of the posterior, usually 1.
    draw_prior : callable
        ``(n, rng) -> mapping``: independent draws of every parameter from the prior, each
        ``(n, shape in the program)``.
    folder : path
        Where levels are kept; a run that was interrupted goes on from there.
    replicates : int
        Independent runs. Their spread is the standard error: at least two, better four.
    inverse_metric : ndarray, (unconstrained parameter,), optional
        Variances of the parameters for NUTS, in the order of the program; 1 by default.
    seed : int
    executor : concurrent.futures.Executor, optional
        Runs the levels; a pool of this machine's cores by default.
    on_progress : callable, optional
        Called now and then with the progress of all replicates.
    **settings
        Fields of `Settings`: ``chains``, ``moves``, ``ess``, ``weights``, ...

    Returns
    -------
    Smc

    Raises
    ------
    ValueError
        If the program has no ``likelihood_weight`` or no ``log_lik``, or these do not belong
        together, if ``folder`` holds other levels, or for unusable settings.
    RuntimeError
        If levels do not end, or CmdStan fails; finished levels are kept.

    Examples
    --------
    The mean of ten normal observations with a normal prior, whose evidence is known.

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
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    _refuse_other(folder, data, chosen, replicates, seed)
    write_json(folder / "data.json", dict(data))
    _check_program(Path(executable), folder, data, draw_prior)
    levels = temper(
        executable=Path(executable),
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
    value, se = tempering.log_evidence([each[-1].log_evidence for each in levels])
    return Smc(draws, levels, value, se)


def temper(
    *, executable, data, folder, draw_prior, settings, replicates, inverse_metric, seed,
    executor=None, on_progress=None,
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

    Returns
    -------
    list of list of Level
        Of each replicate.
    """
    if not isinstance(replicates, int) or replicates < 1:
        raise ValueError(f"replicates must be a positive integer, got {replicates!r}")
    metric = None
    if inverse_metric is not None:
        metric = folder / "metric.json"
        write_json(metric, {"inv_metric": np.asarray(inverse_metric, dtype=float).tolist()})
    paths = [
        _Path(executable, data, folder, k, settings, metric, seed) for k in range(1, replicates + 1)
    ]
    for path in paths:
        path.begin(draw_prior)
    if executor is not None:
        _drive(paths, executor, on_progress)
    elif not all(path.finished for path in paths):
        with ThreadPoolExecutor(max_workers=min(replicates, n_cores())) as pool:
            _drive(paths, pool, on_progress)
    return [path.levels for path in paths]


def csv_of(folder: Path, replicate: int) -> Path:
    """The draws of a finished replicate, counted from 1."""
    return folder / f"replicate-{replicate}.csv"


def levels_of(folder: Path, replicate: int) -> list[Level]:
    """The levels of a replicate that are there, counted from 1."""
    return load_levels(folder / f"replicate-{replicate}")


class _Path:
    """One replicate on its way: what is there, and what is to be done next."""

    def __init__(self, executable, data, folder, replicate, settings, metric, seed):
        self.executable, self.data, self.replicate = executable, data, replicate
        self.folder = folder / f"replicate-{replicate}"
        self.csv = csv_of(folder, replicate)
        self.settings, self.metric, self.seed = settings, metric, seed
        weights = settings.weights or (json.loads(data.read_text())["likelihood_weight"],)
        self.target = float(weights[-1])
        self.levels: list[Level] = []
        self.label, self.begun = f"replicate {replicate}", False

    @property
    def finished(self):
        return self.csv.exists() and self.levels[-1].likelihood_weight == self.target

    def begin(self, draw_prior):
        """Level 0, unless it is there."""
        self.folder.mkdir(exist_ok=True)
        self.levels = load_levels(self.folder)
        if self.levels:
            return
        begun, settings = time.perf_counter(), self.settings
        n = settings.chains * settings.moves
        drawn = dict(draw_prior(n, np.random.default_rng([self.seed, self.replicate, 0])))
        log_lik = drawn.pop("log_lik", None)
        if log_lik is None:
            log_lik = log_lik_of(self.executable, self.data, drawn, self.folder)
        log_lik = np.reshape(log_lik, (n, -1)).sum(axis=1)
        if np.isnan(log_lik).any():
            raise ValueError("log_lik must be a number for every draw from the prior, got nan")
        log_lik = log_lik.reshape(settings.chains, settings.moves)
        keep_prior(self.folder, drawn, log_lik, time.perf_counter() - begun)
        self.levels = load_levels(self.folder)

    def next_unit(self) -> LevelUnit:
        """The level that follows; it depends on the levels that are there and the seed alone."""
        settings, now, number = self.settings, self.levels[-1], len(self.levels)
        if number > settings.max_levels:
            raise RuntimeError(
                f"{self.label} is at likelihood weight {now.likelihood_weight:.3g} after "
                f"{settings.max_levels} levels; try more moves or chains, a smaller ess, or, if "
                "log_lik varies by thousands of nats under the prior, a narrower prior"
            )
        step = self._step(now, number)
        seeds = np.random.SeedSequence([self.seed, self.replicate, number])
        start = tempering.resample(step.weights, settings.chains, np.random.default_rng(seeds))
        step_size = settings.step_size
        if number > 1:
            step_size = tempering.next_step_size(now.step_size, now.acceptance)
        return LevelUnit(
            label=f"{self.label}, level {number}",
            executable=str(self.executable),
            data=str(self.data),
            folder=str(self.folder),
            number=number,
            last=step.likelihood_weight == self.target,
            likelihood_weight=step.likelihood_weight,
            log_evidence=now.log_evidence + step.log_mean_weight,
            ess=step.ess,
            start=tuple(start.tolist()),
            ancestor=tuple(now.ancestor.ravel()[start].tolist()),
            moves=settings.moves,
            step_size=step_size,
            metric=str(self.metric) if self.metric else None,
            max_treedepth=settings.max_treedepth,
            seed=int(seeds.generate_state(1)[0] >> 1),
        )

    def _step(self, now, number):
        log_lik = now.log_lik.ravel()
        if self.settings.weights:
            return tempering.step_to(log_lik, now.likelihood_weight, self.settings.weights[number - 1])
        return tempering.next_step(log_lik, now.likelihood_weight, self.target, self.settings.ess)

    def progress(self):
        done = len(self.levels) - 1
        if self.finished:
            return Progress(self.label, done, done, True, self._note())
        left = levels_left(self.levels, self.target)
        return Progress(self.label, done, done + left, self.begun, self._note())

    def _note(self):
        now = self.levels[-1]
        words = (
            f"weight {now.likelihood_weight:.2g}, log lik {now.log_lik.mean():,.1f}, "
            f"log Z {now.log_evidence:,.1f}"
        )
        if self.finished or len(self.levels) < 3:
            return words
        return f"{words}, {_duration(seconds_left(self.levels, self.target))} left"


def levels_left(levels: Sequence[Level], target: float) -> int:
    """How many levels there will be, if likelihood weights go on growing as they last did.

    Where the likelihood concentrates, the variance of the log likelihood falls like the square of
    the weight, and weights grow by a factor that stays the same.
    """
    if len(levels) < 3:
        return 20
    recent = [each.likelihood_weight for each in levels[-4:] if each.likelihood_weight > 0]
    growth = np.log(recent[-1] / recent[0]) / max(len(recent) - 1, 1) if len(recent) > 1 else 1.0
    return max(1, int(np.ceil(np.log(target / recent[-1]) / max(growth, 0.01))))


def seconds_left(levels: Sequence[Level], target: float) -> float:
    """Time of these levels for one worker, if levels go on taking longer as they last did."""
    seconds = [each.seconds for each in levels[1:]][-4:]
    growth = 1.0
    if len(seconds) > 1:
        growth = float(np.clip((seconds[-1] / seconds[0]) ** (1 / (len(seconds) - 1)), 1, 1.2))
    return float(np.sum(seconds[-1] * growth ** np.arange(1, levels_left(levels, target) + 1)))


def _duration(seconds):
    if seconds < 90:
        return f"about {max(1, round(seconds))} s"
    return f"about {round(seconds / 60)} min"


def _drive(paths, executor, on_progress):
    """One level after the other of every replicate; after the first failure none that is new."""

    def submit(path):
        running[executor.submit(run_level, path.next_unit())] = path
        path.begun = True

    running = {}
    try:
        for path in paths:
            if not path.finished:
                submit(path)
        while running:
            done, _ = wait(running, timeout=0.2, return_when=FIRST_COMPLETED)
            for future in done:
                path = running.pop(future)
                future.result()
                path.levels = load_levels(path.folder)
                if not path.finished:
                    submit(path)
            if on_progress:
                on_progress([path.progress() for path in paths])
    finally:
        for future in running:
            future.cancel()


def _check_data(data, settings):
    if "likelihood_weight" not in data:
        raise ValueError(f"data must have likelihood_weight, got {', '.join(data)}")
    weight = data["likelihood_weight"]
    if not weight > 0:
        raise ValueError(f"likelihood_weight must be positive, got {weight!r}: draw from the prior")
    if settings.weights and settings.weights[-1] != weight:
        raise ValueError(
            f"the last of weights must be likelihood_weight, got {settings.weights[-1]} and {weight}"
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
