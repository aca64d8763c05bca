"""One replicate of sequential Monte Carlo: its finished levels, and the next one.

The first replicate chooses the levels by the effective sample size of its own particles. The others
use the same levels. An estimate of the evidence is unbiased if the levels do not depend on the
particles. Levels that do are too far apart where the particles happen to be similar, which is where
their mean weight is too small. With few particles this bias exceeds the standard error.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from gptbayes.corpus import real_number
from gptbayes.files import remove
from gptbayes.fit import tempering
from gptbayes.fit.checks import check_one_of, positive
from gptbayes.fit.levels import Level, LevelUnit, keep_prior, load_levels
from gptbayes.fit.transitions import log_lik_of
from gptbayes.fit.units import Progress

TEMPERING_METRICS = ("prior", "particles")
"""Inverse metrics of NUTS in sequential Monte Carlo."""


@dataclass(frozen=True)
class Settings:
    """Settings of sequential Monte Carlo, ready for JSON.

    Attributes
    ----------
    chains, moves, ess, weights, step_size, max_treedepth, max_levels
        As for `gptbayes.fit.smc`.
    metric : {"prior", "particles"}
        Inverse metric of NUTS: a given one at all levels, or the variances of the particles of the
        level before.
    """

    chains: int = 32
    moves: int = 8
    ess: float = 0.5
    weights: tuple[float, ...] | None = None
    step_size: float | None = None
    metric: str = "prior"
    max_treedepth: int = 10
    max_levels: int = 200

    def __post_init__(self):
        for name in ("chains", "moves", "max_treedepth", "max_levels"):
            (number,) = positive(**{name: getattr(self, name)})
            object.__setattr__(self, name, number)
        if self.chains * self.moves < 4:
            raise ValueError(
                "chains * moves must be at least 4 particles, "
                f"got {self.chains} chains of {self.moves}"
            )
        object.__setattr__(self, "ess", real_number("ess", self.ess, "between 0 and 1"))
        check_one_of("metric", self.metric, TEMPERING_METRICS)
        if not 0 < self.ess < 1:
            raise ValueError(f"ess must be between 0 and 1, got {self.ess}")
        if self.step_size is not None:
            step_size = real_number("step_size", self.step_size, "positive")
            object.__setattr__(self, "step_size", step_size)
            if not step_size > 0:
                raise ValueError(f"step_size must be positive, got {step_size}")
        if self.weights is not None:
            self._check_weights(self.weights)

    def _check_weights(self, given):
        weights = tuple(real_number("weights", weight, "rising") for weight in given)
        object.__setattr__(self, "weights", weights)
        if not weights or any(a >= b for a, b in pairwise((0.0, *weights))):
            raise ValueError(f"weights must rise from above 0, got {weights}")


class Replicate:
    """A replicate and its finished levels, which with settings and seed determine the next level.

    Parameters
    ----------
    executable, data, folder : pathlib.Path
        The compiled program, its data, and the folder of all replicates.
    number : int
        Number of the replicate, from 1.
    settings : Settings
    metric : pathlib.Path or None
        The inverse metric; None for unit scales.
    seed : int
    leader : Replicate or None
        The replicate that chooses the levels; None for this one.
    """

    def __init__(self, executable, data, folder, number, settings, metric, seed, leader=None):
        self.executable, self.data, self.number = executable, data, number
        self.leader = leader
        self.folder = folder / f"replicate-{number}"
        self.csv = csv_of(folder, number)
        self.settings, self.metric, self.seed = settings, metric, seed
        weights = settings.weights or (json.loads(data.read_text())["likelihood_weight"],)
        self.target = float(weights[-1])
        self.levels: list[Level] = []
        self.label, self.begun = f"replicate {number}", False

    @property
    def finished(self) -> bool:
        """Whether the draws of its last level exist."""
        return self.csv.exists() and self.levels[-1].likelihood_weight == self.target

    @property
    def ready(self) -> bool:
        """Whether the likelihood weight of its next level is known."""
        return self.leader is None or len(self.leader.levels) >= len(self.levels)

    def begin(self, draw_prior) -> None:
        """Load the finished levels, and draw level 0 from the prior if there are none.

        Parameters
        ----------
        draw_prior : callable
            As for `gptbayes.fit.smc.temper`.

        Raises
        ------
        ValueError
            If the log likelihood of a draw from the prior is nan.
        """
        self.folder.mkdir(exist_ok=True)
        for leftover in self.folder.glob(".*-*"):  # of a level that was killed
            remove(leftover)
        self.levels = load_levels(self.folder)
        if self.levels:
            return
        begun, settings = time.perf_counter(), self.settings
        n = settings.chains * settings.moves
        drawn = dict(draw_prior(n, np.random.default_rng([self.seed, self.number, 0])))
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
        """Describe the next level.

        Returns
        -------
        LevelUnit

        Raises
        ------
        RuntimeError
            If there are ``max_levels`` levels already.
        """
        settings, now, number = self.settings, self.levels[-1], len(self.levels)
        if number > settings.max_levels:
            raise RuntimeError(
                f"{self.label} is at likelihood weight {now.likelihood_weight:.3g} after "
                f"{settings.max_levels} levels; try more moves or chains, a smaller ess, or, if "
                "log_lik varies by thousands of nats under the prior, a narrower prior"
            )
        step = self._step(number)
        seeds = np.random.SeedSequence([self.seed, self.number, number])
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
            adapt_metric=settings.metric == "particles",
            max_treedepth=settings.max_treedepth,
            seed=int(seeds.generate_state(1)[0] >> 1),
        )

    def _step(self, number):
        """The step from the level before to this one."""
        before = self.levels[number - 1]
        log_lik, now = before.log_lik.ravel(), before.likelihood_weight
        if self.settings.weights:
            return tempering.step_to(log_lik, now, self.settings.weights[number - 1])
        if self.leader is not None:
            return tempering.step_to(log_lik, now, self.leader._weight_of(number))
        return tempering.next_step(log_lik, now, self.target, self.settings.ess)

    def _weight_of(self, number):
        if number < len(self.levels):
            return self.levels[number].likelihood_weight
        return self._step(number).likelihood_weight

    def progress(self) -> Progress:
        """The progress in levels, with the state of the last finished level as a note.

        Returns
        -------
        Progress
        """
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
    """Predict the number of further levels, if likelihood weights continue to grow by one factor.

    For a concentrated likelihood the variance of the log likelihood is inversely proportional to
    the square of the likelihood weight, so that weights grow by a constant factor.

    Parameters
    ----------
    levels : sequence of Level
        The finished ones.
    target : float
        Likelihood weight of the last level.

    Returns
    -------
    int
        At least 1; 20 if there are fewer than three levels.
    """
    if len(levels) < 3:
        return 20
    recent = [each.likelihood_weight for each in levels[-4:] if each.likelihood_weight > 0]
    growth = np.log(recent[-1] / recent[0]) / max(len(recent) - 1, 1) if len(recent) > 1 else 1.0
    return max(1, int(np.ceil(np.log(target / recent[-1]) / max(growth, 0.01))))


def seconds_left(levels: Sequence[Level], target: float) -> float:
    """Predict the time of the further levels, if the time of a level continues to grow as it did.

    Parameters
    ----------
    levels, target
        As for `levels_left`.

    Returns
    -------
    float
        In seconds, of one worker.
    """
    seconds = [each.seconds for each in levels[1:]][-4:]
    growth = 1.0
    if len(seconds) > 1:
        growth = float(np.clip((seconds[-1] / seconds[0]) ** (1 / (len(seconds) - 1)), 1, 1.2))
    return float(np.sum(seconds[-1] * growth ** np.arange(1, levels_left(levels, target) + 1)))


def _duration(seconds):
    if seconds < 90:
        return f"about {max(1, round(seconds))} s"
    return f"about {round(seconds / 60)} min"


def csv_of(folder: Path, replicate: int) -> Path:
    """Path of the draws of a finished replicate, a CSV file.

    Parameters
    ----------
    folder : pathlib.Path
        Folder of all replicates.
    replicate : int
        From 1.

    Returns
    -------
    pathlib.Path
    """
    return folder / f"replicate-{replicate}.csv"


def levels_of(folder: Path, replicate: int) -> list[Level]:
    """Load the finished levels of a replicate.

    Parameters
    ----------
    folder, replicate
        As for `csv_of`.

    Returns
    -------
    list of Level
    """
    return load_levels(folder / f"replicate-{replicate}")
