"""Stan's HMC with trajectories of one length (Duane et al. 1987; Neal 2011), on our kernels.

With the prior's variances as inverse metric, a parameter about which nothing was learned has a
period of 2 pi. A trajectory of a quarter or of three quarters of it gives an independent value, one
of a half gives the mirrored one. Warm-up, the step size and the metric are those of our NUTS. The
step size changes by up to a fifth at random from one trajectory to the next, and so does the
length.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from metric import seconds as seconds_of_phases
from samplers import Piece, Sampler, processor_seconds

from gptbayes import fit
from gptbayes.fit.draws import read_csv
from gptbayes.fit.programs import executable_of
from gptbayes.fit.sampling import PRIOR_DEFAULTS

LENGTHS = {"pi/2": 0.5 * np.pi, "pi": np.pi, "3pi/2": 1.5 * np.pi}
"""Of trajectories, in units of prior standard deviations."""
JITTER = 0.2
LAST = 10
"""Draws of NUTS after its warm-up. HMC starts at the last one; their gradients count as warm-up."""


def kinds(problem) -> dict[str, Callable[[], Sampler]]:
    """What makes a sampler for each length, by name."""
    return {f"Stan HMC {name}": partial(_static, problem, t) for name, t in LENGTHS.items()}


def _static(problem, length):
    executable = executable_of(problem.stage, "c++").path
    names = [p.name for p in problem.stage.parameters]

    def start(seed):
        folder = TemporaryDirectory()
        work = Path(folder.name)
        step, pieces = 0.0, 0

        def more(n):
            nonlocal step, pieces
            before, warmup = processor_seconds(), 0.0
            if not pieces:
                last, step, warmup = _warmed(problem, work / "run", seed)
                _write(work, {name: last.variables[name][-1] for name in names})
            pieces += 1
            _run(executable, work, step, length, n, seed=1000 * seed + pieces)
            drawn = read_csv(work / "draws.csv", n)
            draws = {name: drawn.variables[name] for name in names}
            _write(work, {name: values[-1] for name, values in draws.items()})
            # An energy error above 745 gives an acceptance statistic of exactly 0.
            divergences = int((drawn.method_variables["accept_stat"] == 0.0).sum())
            seconds = processor_seconds() - before
            return Piece(draws, float(n * int(length / step)), warmup, seconds, divergences)

        return more

    return Sampler("", np.nan, 100, start)


def _warmed(problem, out, seed):
    """The draws of NUTS after its warm-up, its step size, and the gradients it took."""
    with ThreadPoolExecutor(max_workers=1) as executor:
        fit.nuts(
            problem,
            out,
            chains=1,
            iter_sampling=LAST,
            seed=seed,
            kernels="c++",
            executor=executor,
            **PRIOR_DEFAULTS,
        )
    (drawn,) = fit.read_draws(out)
    (csv,) = (out / "csv").glob("*.csv")
    warmup, sampling = seconds_of_phases(csv)
    told = drawn.method_variables
    gradients = float(told["n_leapfrog"].sum()) * (1.0 + warmup / sampling)
    return drawn, float(told["stepsize"][0]), gradients


def _write(work, point):
    there = {name: value.tolist() for name, value in point.items()}
    (work / "init.json").write_text(json.dumps(there))


def _run(executable, work, step, length, n, seed):
    run = work / "run"
    command = (
        f"{executable} id=1 init={work / 'init.json'} random seed={seed} sample num_samples={n} "
        f"num_warmup=0 adapt engaged=0 algorithm=hmc metric=diag_e "
        f"metric_file={run / 'init' / 'metric.json'} stepsize={step!r} stepsize_jitter={JITTER} "
        f"engine=static int_time={length!r} data file={run / 'data.json'} output "
        f"file={work / 'draws.csv'} refresh=0 sig_figs=17 profile_file={work / 'profile.csv'}"
    )
    subprocess.run(command.split(), check=True, capture_output=True, cwd=work)
