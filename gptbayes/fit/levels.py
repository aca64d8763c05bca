"""One level of sequential Monte Carlo as a unit of work, and its files.

A level runs CmdStan's NUTS from resampled particles, with many short chains in one process. A small
file describes each level. Particles are kept for the newest level only, and those of the last level
are the CSV file of the replicate. Files are moved into place when they are complete.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gptbayes.files import replacing
from gptbayes.fit.directory import write_json
from gptbayes.fit.draws import read_csv
from gptbayes.fit.transitions import (
    Nuts,
    draw_chains,
    find_step_size,
    metric_of,
    write_starts,
)


class Level(NamedTuple):
    """A description of one level of one replicate.

    Attributes
    ----------
    likelihood_weight : float
    log_evidence : float
        Log of the estimated normalising constant at this likelihood weight, nats.
    ess : float
        Effective sample size of the weights that led here, as a share of the particles.
    step_size : float
        Step size of NUTS; nan at level 0, as are ``acceptance`` and ``n_steps``.
    acceptance : float
        Mean acceptance statistic.
    n_steps : float
        Mean number of leapfrog steps of a draw.
    n_divergent : int
    seconds, stan_seconds : float
        Time of the level, and the part of it that CmdStan spent on sampling.
    start : ndarray of int, (chain,)
        The particle of the level before at which each chain starts; empty at level 0.
    ancestor : ndarray of int, (chain, draw)
        The particle of level 0 from which each particle descends.
    log_lik : ndarray, (chain, draw)
        Log likelihood of each particle, nats.
    """

    likelihood_weight: float
    log_evidence: float
    ess: float
    step_size: float
    acceptance: float
    n_steps: float
    n_divergent: int
    seconds: float
    stan_seconds: float
    start: np.ndarray
    ancestor: np.ndarray
    log_lik: np.ndarray


@dataclass(frozen=True)
class LevelUnit:
    """Everything that a worker needs to run one level, as plain values.

    Attributes
    ----------
    label : str
        Used in messages, for example "replicate 2, level 7".
    executable, data, folder : str
        The compiled program, its data, and the folder of the replicate.
    number : int
        Number of the level, from 1.
    last : bool
        Whether the draws of this level are those of the replicate.
    likelihood_weight, log_evidence, ess : float
        As in `Level`.
    start : tuple of int
        Particles of the level before, one for each chain.
    ancestor : tuple of int
        Of each chain.
    moves : int
        Draws of each chain.
    step_size : float or None
        With None it is found by adaptation.
    metric : str or None
        A JSON file with the inverse metric; None for unit scales.
    adapt_metric : bool
        Whether the inverse metric is the variances of the particles of the level before.
    max_treedepth, seed : int
    """

    label: str
    executable: str
    data: str
    folder: str
    number: int
    last: bool
    likelihood_weight: float
    log_evidence: float
    ess: float
    start: tuple[int, ...]
    ancestor: tuple[int, ...]
    moves: int
    step_size: float | None
    metric: str | None
    adapt_metric: bool
    max_treedepth: int
    seed: int

    @property
    def inputs(self) -> list[str]:
        """Paths of the files that it reads."""
        before = _particles(Path(self.folder), self.number - 1)
        return [self.data, str(before), *([self.metric] if self.metric else [])]


def run_level(unit: LevelUnit) -> list[Path]:
    """Run a level in a folder of its own, then move what is kept into place.

    Parameters
    ----------
    unit : LevelUnit

    Returns
    -------
    list of pathlib.Path
        What is kept, in the order in which it is moved.
    """
    folder, begun = Path(unit.folder), time.perf_counter()
    before = load_particles(folder, unit.number - 1)
    work = Path(tempfile.mkdtemp(prefix=f".level-{unit.number}-", dir=folder))
    try:
        data = json.loads(Path(unit.data).read_text(encoding="utf-8"))
        write_json(work / "data.json", {**data, "likelihood_weight": unit.likelihood_weight})
        write_starts(work, before, unit.start)
        nuts = Nuts(
            executable=Path(unit.executable),
            work=work,
            label=unit.label,
            chains=len(unit.start),
            metric=Path(unit.metric) if unit.metric else None,
            max_treedepth=unit.max_treedepth,
            seed=unit.seed,
        )
        if unit.adapt_metric and unit.number > 1:
            adapted = metric_of(nuts, before)
            nuts = nuts._replace(metric=work / "metric.json")
            write_json(work / "metric.json", {"inv_metric": adapted.tolist()})
        step_size = unit.step_size or find_step_size(nuts)
        joined = draw_chains(nuts, unit.moves, step_size)
        try:
            drawn = read_csv(joined, unit.moves * len(unit.start))
        except ValueError as error:
            raise RuntimeError(f"{unit.label} failed: {error}; is the disk full?") from None
        level = _level(unit, step_size, drawn, begun)
        return _keep(unit, level, joined, {name: drawn.variables[name] for name in before})
    finally:
        shutil.rmtree(work, ignore_errors=True)


def keep_prior(
    folder: Path, particles: Mapping[str, np.ndarray], log_lik: np.ndarray, seconds: float
) -> None:
    """Save level 0: independent draws from the prior.

    Parameters
    ----------
    folder : pathlib.Path
        Of the replicate.
    particles : mapping of str to ndarray
        Each ``(particle, stan_shape)``.
    log_lik : ndarray, (chain, draw)
        Of the particles, in that order.
    seconds : float
    """
    nan, ancestor = float("nan"), np.arange(log_lik.size).reshape(log_lik.shape)
    start = np.empty(0, dtype=int)
    _save(_particles(folder, 0), particles)
    level = Level(0.0, 0.0, 1.0, nan, nan, nan, 0, seconds, 0.0, start, ancestor, log_lik)
    _save(folder / "level-0.npz", level._asdict())


def load_levels(folder: Path, first: int = 0) -> list[Level]:
    """Load the complete levels of a replicate in order.

    Parameters
    ----------
    folder : pathlib.Path
        Folder of the replicate.
    first : int
        Number of the first level to load.

    Returns
    -------
    list of Level

    Raises
    ------
    ValueError
        If a file is truncated or corrupted.
    """
    levels: list[Level] = []
    while (path := folder / f"level-{first + len(levels)}.npz").exists():
        try:
            with np.load(path) as file:
                stored = {name: file[name] for name in Level._fields}
        except (OSError, ValueError, KeyError, zipfile.BadZipFile, EOFError) as error:
            raise ValueError(
                f"{path} is truncated or corrupted: {error}; delete {folder} and run the same fit "
                "again"
            ) from None
        levels.append(
            Level(*(v.item() if v.ndim == 0 else v for v in stored.values()))  # in their order
        )
    return levels


def load_particles(folder: Path, number: int) -> dict[str, np.ndarray]:
    """Load the particles of the newest level.

    Parameters
    ----------
    folder : pathlib.Path
        Folder of the replicate.
    number : int
        Number of the level.

    Returns
    -------
    dict of str to ndarray
        Each ``(particle, stan_shape)``.

    Raises
    ------
    ValueError
        If the file is missing, truncated or corrupted.
    """
    path = _particles(folder, number)
    try:
        with np.load(path) as file:
            return dict(file)
    except (OSError, ValueError, zipfile.BadZipFile, EOFError) as error:
        raise ValueError(f"{path} is missing, truncated or corrupted: {error}") from None


def _level(unit, step_size, drawn, begun):
    stats, n_chain = drawn.method_variables, len(unit.start)
    log_lik = drawn.variables["log_lik"].reshape(n_chain, unit.moves, -1).sum(axis=-1)
    return Level(
        likelihood_weight=unit.likelihood_weight,
        log_evidence=unit.log_evidence,
        ess=unit.ess,
        step_size=step_size,
        acceptance=float(stats["accept_stat"].mean()),
        n_steps=float(stats["n_leapfrog"].mean()),
        n_divergent=int(stats["divergent"].sum()),
        seconds=time.perf_counter() - begun,
        stan_seconds=drawn.seconds,
        start=np.array(unit.start),
        ancestor=np.repeat(np.array(unit.ancestor)[:, None], unit.moves, axis=1),
        log_lik=log_lik,
    )


def _keep(unit, level, joined, particles):
    """First what the level's own file promises, that file, and then nothing that is outdated."""
    folder = Path(unit.folder)
    if unit.last:
        draws = folder.with_suffix(".csv")
        os.replace(joined, draws)
    else:
        draws = _particles(folder, unit.number)
        _save(draws, particles)
    described = folder / f"level-{unit.number}.npz"
    _save(described, level._asdict())
    _particles(folder, unit.number - 1).unlink(missing_ok=True)
    return [draws, described]


def _particles(folder, number):
    return folder / f"particles-{number}.npz"


def _save(path, arrays):
    with replacing(path) as partial, open(partial, "wb") as file:
        np.savez(file, **arrays)
