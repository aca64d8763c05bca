"""Samplers of the same posterior: what they have in common, and ours.

A chain starts at a draw from the prior with twice its sd, which depends on the seed alone. It goes
on piece by piece, until its draws are worth enough. NUTS of other packages aims at an
acceptance statistic of 0.8 with trees of depth 10 at most; ours has its own defaults unless a name
says otherwise. How a sampler adapts is its own, and what that takes is counted.
"""

from __future__ import annotations

import resource
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
from densities import compiled
from metric import seconds as seconds_of_phases

from gptbayes import fit
from gptbayes.fit.programs import compile_with_kernels
from gptbayes.model import kernel_sources
from gptbayes.model.simulate import prior_draws
from gptbayes.model.stages import stan_folder

TARGET, MAX_DEPTH, WARMUP = 0.8, 10, 300
FORMER = {"iter_warmup": WARMUP, "adapt_delta": TARGET, "max_treedepth": MAX_DEPTH}
"""The former defaults of `gptbayes.fit.nuts`, and the settings of the other samplers here."""


class Piece(NamedTuple):
    """Some draws of one chain, and their cost.

    Attributes
    ----------
    draws : dict of str to ndarray
        Each ``(draw, stan_shape)``.
    gradients : float
        For these draws.
    warmup_gradients : float
        Before them: nought unless the piece is the first one.
    seconds : float
        Of the processor, for all of these gradients.
    divergences : int
    """

    draws: dict[str, np.ndarray]
    gradients: float
    warmup_gradients: float
    seconds: float
    divergences: int


class Sampler(NamedTuple):
    """One implementation, ready to run.

    Attributes
    ----------
    name : str
    compile_seconds : float
        Of the processor; nan where it was not measured.
    first : int
        Draws of a chain after which one can say how many more it takes.
    start : callable
        From a seed to a function that gives the next draws of its chain, at least as many as it is
        asked for. The first piece includes warm-up.
    """

    name: str
    compile_seconds: float
    first: int
    start: Callable[[int], Callable[[int], Piece]]


def point(problem, seed: int) -> dict[str, np.ndarray]:
    """Where the chain of a seed starts, with Stan's shapes: as `gptbayes.fit.nuts` does it."""
    drawn = prior_draws(problem, 1, np.random.default_rng(seed), overdispersion=2.0)
    return {name: v[0] for name, v in problem.stage.to_stan(drawn, problem.design).items()}


def processor_seconds() -> float:
    """Of this process and of the processes that it started and waited for."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def ours(
    problem,
    name: str = "gptbayes",
    *,
    method=fit.nuts,
    thin: int = 1,
    compile_too: bool = False,
    **settings,
) -> Sampler:
    """`gptbayes.fit.nuts` or another of its samplers, with the C++ kernels: CSV files and all.

    Gradients of warm-up are not in these files; they are told from the seconds of warm-up and of
    sampling, which are.
    """
    compiled(problem, "kernels")  # so that no chain waits for it
    names = [p.name for p in problem.stage.parameters]

    def start(seed):
        folder = TemporaryDirectory()
        done = 0

        def more(n):
            nonlocal done
            before, out = processor_seconds(), Path(folder.name) / "run"
            with ThreadPoolExecutor(max_workers=1) as executor:
                method(
                    problem,
                    out,
                    chains=1,
                    iter_sampling=thin * (done + n),
                    thin=thin,
                    init="random",
                    seed=seed,
                    kernels="c++",
                    executor=executor,
                    **settings,
                )
            between = processor_seconds()
            (drawn,) = fit.read_draws(out)
            reading = (processor_seconds() - between) * n / (done + n)  # each draw once
            seconds = between - before + reading
            told = {name: values[done:] for name, values in drawn.method_variables.items()}
            steps = thin * float(told["n_leapfrog"].sum())
            first = not done
            if first:
                phases = [seconds_of_phases(csv) for csv in out.glob("*/*.csv")]
                warmup, sampling = map(sum, zip(*phases, strict=True))
            draws = {name: drawn.variables[name][done:] for name in names}
            done += n
            return Piece(
                draws,
                steps,
                steps * warmup / sampling if first else 0.0,
                seconds,
                int(told["divergent"].sum()),
            )

        return more

    seconds = _seconds_to_compile(problem) if compile_too else np.nan
    return Sampler(name, seconds, 100, start)


def _seconds_to_compile(problem):
    """Of a program that is not in the cache, because of a comment, and is not left there."""
    with TemporaryDirectory() as folder:
        copy = Path(folder) / "stan"
        shutil.copytree(stan_folder(), copy)
        stage = replace(problem.stage, folder=copy)
        with stage.program.open("a") as program:
            program.write(f"// {time.time_ns()}\n")
        kernels = kernel_sources.build()
        before = processor_seconds()
        executable = compile_with_kernels(stage, kernels)
        seconds = processor_seconds() - before
    shutil.rmtree(executable.parent)
    return seconds
