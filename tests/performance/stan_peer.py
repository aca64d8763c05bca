"""Stan's programs through CmdStan: with the C++ kernels, with whole matrices, token by token.

A gradient is timed inside NUTS: with a step so small that no trajectory turns around, one draw of
depth d is 2^d - 1 steps, each with one gradient. A draw of depth 1 taken from that leaves the steps
alone: starting up, reading the data and writing the draw cost the same in both. What the sampler
does at each step is part of it, which favours the others.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
from pathlib import Path

from densities import Density, compiled, stan_density
from measure import Peer, processor_seconds

from gptbayes.model.log_density import log_posterior_gradient, ravel, unravel
from gptbayes.model.stages import stan_folder
from gptbayes.model.stan_data import stan_data

NAMES = {
    "kernels": "ours, C++ kernels",
    "functions": "ours, plain Stan",
    "loops": "Stan, token by token",
}


def peers(problem, parameters, folder: Path) -> list[Peer]:
    """One for each set of bricks that there is, and the kernels without Stan around them."""
    stan = [
        peer(problem, parameters, folder / bricks, bricks)
        for bricks in NAMES
        if (stan_folder() / bricks).is_dir()
    ]
    return [stan[0], from_python(problem, parameters), *stan[1:]]


def from_python(problem, parameters) -> Peer:
    """The kernels' gradient with that of the prior in numpy, call by call."""
    stage, design = problem.stage, problem.design
    gradient = log_posterior_gradient(problem)
    point = ravel(stage, stage.from_stan(parameters, design))[None]

    def density():
        (value,), (slope,) = gradient(point)
        return Density(float(value), stage.to_stan(unravel(stage, design, slope), design))

    def seconds(count):
        return processor_seconds(lambda: [gradient(point) for _ in range(count)]) / count

    return Peer("ours, kernels from Python", density, seconds)


def missing() -> list[str]:
    """Names of those that there are no bricks for."""
    return [name for bricks, name in NAMES.items() if not (stan_folder() / bricks).is_dir()]


def peer(problem, parameters, folder: Path, bricks: str) -> Peer:
    """A stage's program with one set of bricks; leaves files in ``folder``."""
    folder.mkdir(parents=True)
    model = compiled(problem, bricks)
    (folder / "data.json").write_text(json.dumps(stan_data(problem)))
    start = {name: value.tolist() for name, value in parameters.items()}
    (folder / "init.json").write_text(json.dumps(start))

    def seconds(count):
        depth = max(3, math.ceil(math.log2(count + 2)))
        long, short = (_draw(model.exe_file, folder, d) for d in (depth, 1))
        return (long - short) / (2**depth - 2)

    return Peer(NAMES[bricks], lambda: stan_density(model, problem, parameters), seconds)


def _draw(executable, folder, depth):
    """Processor seconds of a run of one draw with 2^depth - 1 gradients."""
    arguments = (
        f"sample num_samples=1 num_warmup=0 adapt engaged=0 algorithm=hmc engine=nuts "
        f"max_depth={depth} stepsize=1e-9 random seed=1 data file=data.json init=init.json "
        f"output file=draw.csv"
    )
    with (folder / "said.txt").open("w") as said:
        process = subprocess.Popen(
            [executable, *arguments.split()], cwd=folder, stdout=said, stderr=subprocess.STDOUT
        )
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{executable} failed: {(folder / 'said.txt').read_text()[-500:]}")
    steps = _column(folder / "draw.csv", "n_leapfrog__")
    if steps != 2**depth - 1:
        raise RuntimeError(f"a draw of depth {depth} took {steps:.0f} steps")
    return used.ru_utime + used.ru_stime


def _column(csv, name):
    rows = [line.split(",") for line in csv.read_text().splitlines() if not line.startswith("#")]
    return float(rows[1][rows[0].index(name)])
