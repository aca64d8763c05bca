"""Runs of a compiled Stan program for sequential Monte Carlo.

These are NUTS from given starting points, with many short chains in one process, and the evaluation
of ``log_lik`` and of the log density at given parameters.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gptbayes.fit.directory import write_json
from gptbayes.fit.draws import read_csv, write_csv
from gptbayes.fit.tempering import ACCEPTANCE_TARGET

PILOT_ITERATIONS = 40
"""Number of adaptation iterations for the first step size."""
PILOT_CHAINS = 8
"""Maximum number of chains for the first step size."""


class Nuts(NamedTuple):
    """NUTS of a program in a folder with ``data.json``, ``init_1.json``, ``init_2.json`` and so on.

    Attributes
    ----------
    executable, work : pathlib.Path
        The compiled program, and the folder.
    label : str
        For messages.
    chains : int
    metric : pathlib.Path or None
        A JSON file with the inverse metric; None for unit scales.
    max_treedepth, seed : int
    """

    executable: Path
    work: Path
    label: str
    chains: int
    metric: Path | None
    max_treedepth: int
    seed: int


def write_starts(work: Path, particles: Mapping[str, np.ndarray], start: Sequence[int]) -> None:
    """Write the starting points of chains.

    Parameters
    ----------
    work : pathlib.Path
        Folder of the files.
    particles : mapping of str to ndarray
        Each ``(particle, stan_shape)``.
    start : sequence of int
        The particle at which each chain starts.
    """
    for chain, index in enumerate(start, start=1):
        at = {name: values[index].tolist() for name, values in particles.items()}
        (work / f"init_{chain}.json").write_text(json.dumps(at), encoding="utf-8")


def draw_chains(nuts: Nuts, draws: int, step_size: float) -> Path:
    """Run all chains in one process, without warm-up.

    Parameters
    ----------
    nuts : Nuts
    draws : int
        Number of draws of each chain.
    step_size : float

    Returns
    -------
    pathlib.Path
        A CSV file with the draws of all chains, one chain after the other, since one file is read
        much faster than many.

    Raises
    ------
    RuntimeError
        If the program fails.
    """
    return _join_csv(_sample(nuts, "draws", draws, step_size), nuts.work / "joined.csv")


def find_step_size(nuts: Nuts) -> float:
    """Find a step size, the median of those that Stan's adaptation finds in some of the chains.

    Parameters
    ----------
    nuts : Nuts

    Returns
    -------
    float
    """
    some = nuts._replace(chains=min(nuts.chains, PILOT_CHAINS))
    files = _sample(some, "pilot", 1, 1.0, warmup=PILOT_ITERATIONS)
    return float(np.median([read_csv(p, 1).method_variables["stepsize"][0] for p in files]))


def metric_of(nuts: Nuts, particles: Mapping[str, np.ndarray]) -> np.ndarray:
    """Estimate an inverse metric by the variances of particles.

    Each variance is shrunk towards the median of all variances, with the weight of five particles.

    Parameters
    ----------
    nuts : Nuts
    particles : mapping of str to ndarray
        Each ``(particle, stan_shape)``.

    Returns
    -------
    ndarray, (parameter,)
        In the order of the parameters in the program, which for arrays of vectors and matrices
        differs from that of its CSV files.

    Raises
    ------
    ValueError
        If the program has constrained parameters.
    """
    columns = [values.reshape(len(values), -1, order="F") for values in particles.values()]
    table = np.concatenate(columns, axis=1)
    n, variances = len(table), table.var(axis=0, ddof=1)
    variances = n / (n + 5) * variances + 5 / (n + 5) * np.median(variances)
    return variances[_order_of_parameters(nuts, particles)]


def _order_of_parameters(nuts, particles):
    """Where each parameter of the program stands in the CSV file, found by the values of a draw."""
    one = nuts._replace(chains=1, max_treedepth=1)
    inner = nuts.work / "parameters.csv"
    (path,) = _sample(one, "order", 1, 1e-3, more=(f"diagnostic_file={inner}",))
    drawn, there = read_csv(path, 1).variables, read_csv(inner, 1)
    outside = np.concatenate([drawn[name].ravel(order="F") for name in particles])
    names = [name for name in there.variables if not name.startswith(("p_", "g_"))]
    inside = np.concatenate([there.variables[name].ravel(order="F") for name in names])
    by_value, by_value_inside = (
        np.argsort(outside, kind="stable"),
        np.argsort(inside, kind="stable"),
    )
    if len(inside) != len(outside) or (outside[by_value] != inside[by_value_inside]).any():
        raise ValueError(
            'metric "particles" needs a program whose parameters have no constraints; its '
            f"{len(outside)} parameters are not its {len(inside)} unconstrained ones"
        )
    order = np.empty(len(inside), dtype=int)
    order[by_value_inside] = by_value
    return order


def log_lik_of(
    executable: Path, data: Path, particles: Mapping[str, np.ndarray], folder: Path
) -> np.ndarray:
    """Evaluate the ``log_lik`` of a program at given parameters.

    Parameters
    ----------
    executable, data : pathlib.Path
    particles : mapping of str to ndarray
        Each ``(particle, stan_shape)``.
    folder : pathlib.Path
        For temporary files.

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
            raise ValueError(f"log_lik of prior draws cannot be computed: {error}") from None
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
    """Evaluate the log density of a program at given parameters.

    Parameters
    ----------
    executable : pathlib.Path
        The compiled program.
    data : mapping
        Its data, ready for JSON.
    particles : mapping of str to ndarray
        Each ``(particle, stan_shape)``.
    folder : pathlib.Path
        For temporary files.

    Returns
    -------
    ndarray, (particle,)
        In nats, up to a constant.
    """
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


def _sample(nuts, name, draws, step_size, warmup=0, more=()):
    windows = ("init_buffer=0", "window=0", f"term_buffer={warmup}")
    adaptation = [f"delta={ACCEPTANCE_TARGET}", *windows] if warmup else []
    metric = ["metric=unit_e"]
    if nuts.metric:
        metric = ["metric=diag_e", f"metric_file={nuts.metric}"]
    init = nuts.work / ("init.json" if nuts.chains > 1 else "init_1.json")
    arguments = [
        *("id=1", f"init={init}"),
        *("random", f"seed={nuts.seed}", "sample", f"num_chains={nuts.chains}"),
        *(f"num_samples={draws}", f"num_warmup={warmup}"),
        *("adapt", f"engaged={int(warmup > 0)}", *adaptation),
        *("algorithm=hmc", *metric, f"stepsize={step_size!r}"),
        *("engine=nuts", f"max_depth={nuts.max_treedepth}"),
    ]
    data = nuts.work / "data.json"
    try:
        _run(nuts.executable, None, arguments, data, nuts.work, f"{name}.csv", more)
    except RuntimeError as error:
        raise RuntimeError(f"{nuts.label} failed: {error}") from None
    if nuts.chains == 1:
        return [nuts.work / f"{name}.csv"]
    return [nuts.work / f"{name}_{chain}.csv" for chain in range(1, nuts.chains + 1)]


def _run(executable, method, arguments, data, work, output, more=()):
    command = [
        *(str(executable), *((method,) if method else ()), *arguments),
        *("data", f"file={data}", "output", f"file={work / output}", "refresh=0", "sig_figs=17"),
        f"profile_file={work / 'profile.csv'}",
        *more,
    ]
    with open(work / "console.txt", "w", encoding="utf-8") as console:
        status = subprocess.run(
            command, cwd=work, stdout=console, stderr=subprocess.STDOUT, check=False
        ).returncode
    if status:
        text = (work / "console.txt").read_text(encoding="utf-8", errors="replace")
        said = [line.strip() for line in text.splitlines() if line.strip()]
        raise RuntimeError(said[-1] if said else f"{executable.name} ended with status {status}")


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
