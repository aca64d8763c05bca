"""One level of sequential Monte Carlo as a unit of work, and what is kept of it.

A level runs CmdStan's NUTS from resampled particles: many short chains in one process. What a level
says of itself is a small file; the particles are kept of the newest level only, and of the last one
as the CSV file of the replicate. Everything is moved into place when it is complete.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gptbayes.files import replacing
from gptbayes.fit.directory import write_json
from gptbayes.fit.draws import read_csv, write_csv

PILOT_ITERATIONS = 40
"""Of adaptation, once, for the first step size; the draws are thrown away."""


class Level(NamedTuple):
    """What is known of one level of one replicate.

    Attributes
    ----------
    likelihood_weight : float
    log_evidence : float
        Log of the estimated normalising constant at this likelihood weight, nats.
    ess : float
        Effective sample size of the weights that led here, as a share of the particles.
    step_size : float
        Of NUTS; nan at level 0, as all that follows is.
    acceptance : float
        Mean acceptance statistic.
    n_steps : float
        Mean number of leapfrog steps of a draw.
    n_divergent : int
    seconds, stan_seconds : float
        Time of the whole level, and what of it CmdStan spent on sampling.
    start : ndarray of int, (chain,)
        Which particle of the level before each chain began at; empty at level 0.
    ancestor : ndarray of int, (chain, draw)
        Which particle of level 0 each particle descends from.
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
        For messages, for example "replicate 2, level 7".
    executable, data, folder : str
        The compiled program, its data, and the folder of the replicate.
    number : int
        Of the level, 1 or more.
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
        None to find one by adaptation first.
    metric : str or None
        A JSON file with the inverse metric; None for unit scales.
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
    max_treedepth: int
    seed: int


def run_level(unit: LevelUnit) -> None:
    """Run a level in a folder of its own, then move what is kept into place."""
    folder, begun = Path(unit.folder), time.perf_counter()
    before = load_particles(folder, unit.number - 1)
    work = Path(tempfile.mkdtemp(prefix=f".level-{unit.number}-", dir=folder))
    try:
        data = json.loads(Path(unit.data).read_text(encoding="utf-8"))
        write_json(work / "data.json", {**data, "likelihood_weight": unit.likelihood_weight})
        for chain, index in enumerate(unit.start, start=1):
            start = {name: values[index].tolist() for name, values in before.items()}
            (work / f"init_{chain}.json").write_text(json.dumps(start), encoding="utf-8")
        step_size = unit.step_size or _first_step_size(unit, work)
        files = _sample(unit, work, "draws", unit.moves, step_size)
        joined = _join_csv(files, work / "joined.csv")
        try:
            drawn = read_csv(joined, unit.moves * len(unit.start))
        except ValueError as error:
            raise RuntimeError(f"{unit.label} failed: {error}; is the disk full?") from None
        level = _level(unit, step_size, drawn, begun)
        _keep(unit, level, joined, {name: drawn.variables[name] for name in before})
    finally:
        shutil.rmtree(work, ignore_errors=True)


def keep_prior(
    folder: Path, particles: Mapping[str, np.ndarray], log_lik: np.ndarray, seconds: float
) -> None:
    """Keep level 0: independent draws from the prior.

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
    _save(folder / "particles-0.npz", particles)
    level = Level(0.0, 0.0, 1.0, nan, nan, nan, 0, seconds, 0.0, start, ancestor, log_lik)
    _save(folder / "level-0.npz", level._asdict())


def load_levels(folder: Path) -> list[Level]:
    """All complete levels of a replicate, in order."""
    levels: list[Level] = []
    while (path := folder / f"level-{len(levels)}.npz").exists():
        try:
            with np.load(path) as file:
                stored = {name: file[name] for name in Level._fields}
        except (OSError, ValueError, KeyError) as error:
            raise ValueError(f"{path} is truncated or corrupted: {error}") from None
        levels.append(
            Level(*(v.item() if v.ndim == 0 else v for v in stored.values()))  # in their order
        )
    return levels


def load_particles(folder: Path, number: int) -> dict[str, np.ndarray]:
    """The particles of the newest level, each ``(particle, stan_shape)``."""
    path = folder / f"particles-{number}.npz"
    try:
        with np.load(path) as file:
            return dict(file)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is missing, truncated or corrupted: {error}") from None


def log_lik_of(
    executable: Path, data: Path, particles: Mapping[str, np.ndarray], folder: Path
) -> np.ndarray:
    """What a program's ``log_lik`` is at given parameters.

    Parameters
    ----------
    executable, data : pathlib.Path
    particles : mapping of str to ndarray
        Each ``(particle, stan_shape)``.
    folder : pathlib.Path
        For files that are deleted again.

    Returns
    -------
    ndarray, (particle,)
        Summed over all its elements, nats.

    Raises
    ------
    ValueError
        If the program has no ``log_lik``, or the particles are not its parameters.
    """
    work = Path(tempfile.mkdtemp(prefix=".prior-", dir=folder))
    n = len(next(iter(particles.values())))
    try:
        write_csv(work / "prior.csv", {"lp__": np.zeros(n), **particles})
        arguments = [f"fitted_params={work / 'prior.csv'}", "random", "seed=1"]
        try:
            _run(executable, "generate_quantities", arguments, data, work, "generated.csv")
            found = read_csv(work / "generated.csv", n).variables
        except (RuntimeError, ValueError) as error:
            raise ValueError(f"log_lik of draws from the prior cannot be had: {error}") from None
    finally:
        shutil.rmtree(work, ignore_errors=True)
    if "log_lik" not in found:
        raise ValueError(
            f"the program must have log_lik in its generated quantities, got {', '.join(found)}"
        )
    return found["log_lik"].reshape(n, -1).sum(axis=1)


def log_density_of(
    executable: Path, data: Mapping, particles: Mapping[str, np.ndarray], folder: Path
) -> np.ndarray:
    """A program's log density at given parameters, up to constants, ``(particle,)`` in nats."""
    work = Path(tempfile.mkdtemp(prefix=".density-", dir=folder))
    values = []
    try:
        write_json(work / "data.json", dict(data))
        for k in range(len(next(iter(particles.values())))):
            write_json(work / "at.json", {name: v[k].tolist() for name, v in particles.items()})
            arguments = [f"constrained_params={work / 'at.json'}"]
            _run(executable, "log_prob", arguments, work / "data.json", work, "density.csv")
            lines = (work / "density.csv").read_text(encoding="utf-8").splitlines()
            names, numbers = (line.split(",") for line in lines if not line.startswith("#"))
            values.append(float(numbers[names.index("lp__")]))
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return np.array(values)


def _first_step_size(unit, work):
    """The median of what Stan's adaptation finds from some of the particles."""
    (work / "pilot").mkdir()
    chains = min(len(unit.start), 8)
    files = _sample(unit, work, "pilot", 1, 1.0, warmup=PILOT_ITERATIONS, chains=chains)
    return float(np.median([read_csv(p, 1).method_variables["stepsize"][0] for p in files]))


def _sample(unit, work, name, draws, step_size, warmup=0, chains=None):
    chains = chains or len(unit.start)
    adaptation = [f"delta={0.8}", "init_buffer=0", "window=0", f"term_buffer={warmup}"]
    metric = ["metric=unit_e"]
    if unit.metric:
        metric = ["metric=diag_e", f"metric_file={unit.metric}"]
    arguments = [
        *("id=1", f"init={work / ('init.json' if chains > 1 else 'init_1.json')}"),
        *("random", f"seed={unit.seed}", "sample", f"num_chains={chains}"),
        *(f"num_samples={draws}", f"num_warmup={warmup}"),
        *("adapt", f"engaged={int(warmup > 0)}", *(adaptation if warmup else ())),
        *("algorithm=hmc", *metric, f"stepsize={step_size!r}"),
        *("engine=nuts", f"max_depth={unit.max_treedepth}"),
    ]
    try:
        _run(Path(unit.executable), None, arguments, work / "data.json", work, f"{name}.csv")
    except RuntimeError as error:
        raise RuntimeError(f"{unit.label} failed: {error}") from None
    if chains == 1:
        return [work / f"{name}.csv"]
    return [work / f"{name}_{chain}.csv" for chain in range(1, chains + 1)]


def _run(executable, method, arguments, data, work, output):
    command = [
        *(str(executable), *((method,) if method else ()), *arguments),
        *("data", f"file={data}", "output", f"file={work / output}", "refresh=0", "sig_figs=17"),
        f"profile_file={work / 'profile.csv'}",
    ]
    with open(work / "console.txt", "w", encoding="utf-8") as console:
        status = subprocess.run(
            command, cwd=work, stdout=console, stderr=subprocess.STDOUT, check=False
        ).returncode
    if status:
        text = (work / "console.txt").read_text(encoding="utf-8", errors="replace")
        said = [line.strip() for line in text.splitlines() if line.strip()]
        raise RuntimeError(said[-1] if said else f"{executable.name} ended with status {status}")


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
        os.replace(joined, folder.with_suffix(".csv"))
    else:
        _save(folder / f"particles-{unit.number}.npz", particles)
    _save(folder / f"level-{unit.number}.npz", level._asdict())
    (folder / f"particles-{unit.number - 1}.npz").unlink(missing_ok=True)


def _join_csv(files, target):
    """The rows of all chains, one chain after the other, as one file: it is read much faster."""
    seconds = 0.0
    with open(target, "wb") as joined:
        for k, path in enumerate(files):
            lines = path.read_bytes().splitlines(keepends=True)
            rows = [line for line in lines if not line.startswith(b"#") and line.strip()]
            joined.writelines(rows if k == 0 else rows[1:])
            total = re.search(rb"([\d.e+-]+) seconds \(Total\)", b"".join(lines[-4:]))
            seconds += float(total[1]) if total else 0.0
        joined.write(f"#  Elapsed Time: {seconds:.6f} seconds (Total)\n".encode())
    return target


def _save(path, arrays):
    with replacing(path) as partial, open(partial, "wb") as file:
        np.savez(file, **arrays)
