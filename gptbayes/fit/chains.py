"""Markov chains of a run by any sampler: settings, starting points, metric, continued parts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gptbayes.corpus import real_number
from gptbayes.fit.checks import check_one_of, chosen, positive
from gptbayes.fit.continuation import continued_arguments
from gptbayes.fit.directory import read_config, run_directory, write_json
from gptbayes.fit.parts import File, csv_of, label_of, parts_of, warm_up_of
from gptbayes.fit.starts import INITS, chain_inits
from gptbayes.fit.units import Progress, make_unit, run_units
from gptbayes.model.problem import Problem

STAN_ADAPTATION_WINDOWS = (75, 25, 50)
"""Stan's default initial, metric and final windows of adaptation, in iterations."""
PROGRESS_MESSAGES = 200
"""Approximate number of progress messages of a chain; reading one takes a little time."""


class Sampler(NamedTuple):
    """What makes the transitions of a chain.

    Attributes
    ----------
    name : str
        The method of the run.
    unit_method : str
        The method of its units of work, see `gptbayes.fit.units.Unit`.
    arguments : dict
        Of ``unit_method``, the same in sampling, continued parts and, unless another sampler does
        it, warm-up.
    metric : str
        As for `gptbayes.fit.nuts`.
    warm_up : Sampler, optional
        What warms up, in a unit of its own.
    """

    name: str
    unit_method: str
    arguments: Mapping[str, Any]
    metric: str = "prior"
    warm_up: Sampler | None = None


def chain_settings(
    *,
    chains: int,
    superchains: int | None,
    iter_warmup: int,
    iter_sampling: int,
    thin: int,
    init: str,
    adapt_delta: float,
) -> dict[str, Any]:
    """Check the settings that all samplers have.

    Parameters
    ----------
    chains, superchains, iter_warmup, iter_sampling, thin, init, adapt_delta
        As for `gptbayes.fit.nuts`.

    Returns
    -------
    dict
        Ready for JSON.

    Raises
    ------
    ValueError
        If one is out of range.
    """
    check_one_of("init", init, INITS)
    chains, iter_warmup, iter_sampling, thin = positive(
        chains=chains, iter_warmup=iter_warmup, iter_sampling=iter_sampling, thin=thin
    )
    if iter_sampling % thin:
        raise ValueError(f"thin must divide iter_sampling, got {thin} and {iter_sampling}")
    if superchains is not None:
        (superchains,) = positive(superchains=superchains)
        if chains % superchains:
            raise ValueError(f"superchains must divide chains, got {superchains} and {chains}")
    adapt_delta = real_number("adapt_delta", adapt_delta, "between 0 and 1")
    if not 0 < adapt_delta < 1:
        raise ValueError(f"adapt_delta must be between 0 and 1, got {adapt_delta!r}")
    return {
        "chains": chains,
        "superchains": superchains,
        "iter_warmup": iter_warmup,
        "iter_sampling": iter_sampling,
        "thin": thin,
        "init": init,
        "adapt_delta": adapt_delta,
    }


def run_chains(
    problem: Problem,
    out: str | Path,
    sampler: Sampler,
    settings: dict[str, Any],
    *,
    kernels: str,
    seed: int,
    only: str | None,
    executor: Executor | None,
    on_progress: Callable[[list[Progress]], None] | None,
) -> Path:
    """Run the chains of a run directory that are missing, and the parts that continue them.

    Parameters
    ----------
    problem : Problem
    out : path
    sampler : Sampler
    settings : dict
        As of `chain_settings`, and those of the sampler.
    kernels, seed, only, executor, on_progress
        As for `gptbayes.fit.nuts`.

    Returns
    -------
    pathlib.Path
        The run directory.

    Raises
    ------
    ValueError, RuntimeError
        As `gptbayes.fit.nuts`.
    """
    chains, superchains, thin = (settings[name] for name in ("chains", "superchains", "thin"))
    iter_warmup, iter_sampling = settings["iter_warmup"], settings["iter_sampling"]
    numbers, start_of = chosen(only, "chain", chains), start_of_chain(chains, superchains)
    n_draws = chains * iter_sampling // thin
    with run_directory(
        problem, out, sampler.name, settings, seed, n_draws,
        kernels=kernels, growing="iter_sampling", shared=only is not None,
    ) as run:  # fmt: skip
        first, *more = parts_of(read_config(run.folder)["settings"])
        n_starts, wanted = superchains or chains, {start_of[k - 1] for k in numbers}
        inits = chain_inits(run, problem, settings["init"], n_starts, wanted, executor, on_progress)
        adaptation = {
            "iter_warmup": iter_warmup,
            "adapt_delta": settings["adapt_delta"],
            **_metric_arguments(run, problem, sampler.metric, iter_warmup),
        }
        adapting = {
            k: {
                **(sampler.warm_up or sampler).arguments,
                **adaptation,
                "chain_ids": [k],
                "inits": str(inits[start_of[k - 1]]),
            }
            for k in numbers
        }

        def part_of(k, part, arguments):
            return make_unit(
                run,
                label_of(k, part),
                sampler.unit_method,
                {**arguments, "iter_sampling": part.n_iterations, "thin": thin},
                total=arguments["iter_warmup"] + part.n_iterations,
                n_draws=part.n_draws,
            )

        def continued(k, before, part):
            going_on = continued_arguments(run, problem, k, before, part, sampler.metric, thin)
            refresh = _refresh(part.n_iterations)
            return part_of(
                k, part, {**sampler.arguments, "chain_ids": [k], "refresh": refresh, **going_on}
            )

        def run_all(units):
            run_units(run, units, executor, on_progress)

        if sampler.warm_up is not None:
            run_all([_warm_up(run, sampler.warm_up, k, adapting[k]) for k in numbers])
            run_all([continued(k, File(warm_up_of(run.folder, k), 1), first) for k in numbers])
        else:
            refresh = _refresh(iter_warmup + iter_sampling)
            run_all([part_of(k, first, {**adapting[k], "refresh": refresh}) for k in numbers])
        for before, part in pairwise([first, *more]):
            run_all(
                [
                    continued(k, File(csv_of(run.folder, k, before), before.n_draws), part)
                    for k in numbers
                ]
            )
    return Path(out)


def start_of_chain(chains: int, superchains: int | None) -> list[int]:
    """Index of the starting point of each chain.

    Parameters
    ----------
    chains : int
    superchains : int or None
        As for `gptbayes.fit.nuts`.

    Returns
    -------
    list of int, (chain,)
        0-based and nondecreasing: the chains of a superchain are consecutive.

    Examples
    --------
    >>> start_of_chain(6, 3)
    [0, 0, 1, 1, 2, 2]
    """
    return [k * (superchains or chains) // chains for k in range(chains)]


def prior_variances(problem: Problem) -> np.ndarray:
    """The prior variance of each scalar parameter.

    Parameters
    ----------
    problem : Problem

    Returns
    -------
    ndarray, (weight,)
        In the order of the Stan program.
    """
    stage, design, priors = problem.stage, problem.design, problem.priors
    return np.concatenate(
        [
            np.full(np.prod(stage.shape(p, design), dtype=int), priors.scale(p) ** 2)
            for p in stage.parameters
        ]
    )


def _metric_arguments(run, problem, metric, iter_warmup):
    """Arguments of `cmdstanpy.CmdStanModel.sample` for a metric and its adaptation windows."""
    windows = ("adapt_init_phase", "adapt_metric_window", "adapt_step_size")
    if metric == "prior":
        path = run.folder / "init" / "metric.json"
        write_json(path, {"inv_metric": prior_variances(problem).tolist()})
        # With a metric window of length 0, Stan never replaces the metric by an estimate.
        lengths = (0, 0, iter_warmup)
        windows_of_length = dict(zip(windows, lengths, strict=True))
        return {"metric": "diag_e", "inv_metric": str(path), **windows_of_length}
    if metric == "unit_e" or not 20 <= iter_warmup < sum(STAN_ADAPTATION_WINDOWS):
        return {"metric": metric}
    # Stan reports shorter windows for a short warm-up, but does not use them (stan#3380).
    first, last = int(0.15 * iter_warmup), int(0.1 * iter_warmup)
    lengths = (first, iter_warmup - first - last, last)
    return {"metric": metric, **dict(zip(windows, lengths, strict=True))}


def _warm_up(run, sampler, k, arguments):
    """A unit that adapts the step size; its only draw is the state that the chain starts with."""
    iterations = arguments["iter_warmup"]
    more = {"iter_sampling": 1, "thin": 1, "refresh": _refresh(iterations)}
    return make_unit(
        run,
        f"warm-up {k}",
        sampler.unit_method,
        {**arguments, **more},
        total=iterations + 1,
        folder="init",
    )


def _refresh(iterations):
    return max(1, iterations // PROGRESS_MESSAGES)
