"""Sampling with NUTS."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from gptbayes.corpus import real_number
from gptbayes.fit.checks import check_one_of, chosen, positive
from gptbayes.fit.continuation import continued_arguments
from gptbayes.fit.directory import read_config, run_directory, write_json
from gptbayes.fit.parts import label_of, parts_of
from gptbayes.fit.starts import INITS, chain_inits
from gptbayes.fit.units import Progress, make_unit, run_units
from gptbayes.model.problem import Problem

METRICS = ("prior", "diag_e", "dense_e", "unit_e")
PRIOR_DEFAULTS: dict[str, Any] = {"iter_warmup": 100, "adapt_delta": 0.6, "max_treedepth": 7}
"""With the prior's metric, for which only a step size has to be found."""
STAN_DEFAULTS: dict[str, Any] = {"iter_warmup": 300, "adapt_delta": 0.8, "max_treedepth": 10}
"""With Stan's metrics: Stan's own defaults, but for a shorter warm-up than its 1,000."""
STAN_ADAPTATION_WINDOWS = (75, 25, 50)
"""Stan's default initial, metric and final windows of adaptation, in iterations."""
PROGRESS_MESSAGES = 200
"""Approximate number of progress messages of a chain; reading one takes a little time."""


def nuts(
    problem: Problem,
    out: str | Path,
    *,
    chains: int = 4,
    superchains: int | None = None,
    iter_warmup: int | None = None,
    iter_sampling: int = 500,
    thin: int = 1,
    init: str = "random",
    metric: str = "prior",
    adapt_delta: float | None = None,
    max_treedepth: int | None = None,
    kernels: str = "auto",
    seed: int = 1,
    only: str | None = None,
    executor: Executor | None = None,
    on_progress: Callable[[list[Progress]], None] | None = None,
) -> Path:
    """Sample from the posterior with the No-U-Turn sampler (Hoffman & Gelman 2014).

    Parameters
    ----------
    problem : Problem
    out : path
        The run directory. It is created if it does not exist, and continued if it holds a run of
        the same configuration.
    chains, iter_sampling : int
        Number of chains, and of sampling iterations of each. If ``out`` holds a run of fewer
        sampling iterations that is otherwise the same, each of its chains goes on from its last
        draw with its step size and metric, and with other random numbers.
    iter_warmup : int, optional
        Number of warm-up iterations of each chain: 100 with the metric "prior", for which only the
        step size has to be found, and 300 with the others.
    thin : int
        Keep the first of every ``thin`` sampling iterations, a divisor of ``iter_sampling``. A
        thinned run takes less disk and memory, and as much time. It has less information than all
        iterations, though not much less if these are strongly correlated (Link & Eaton 2012).
    superchains : int, optional
        Number of superchains for nested R-hat (Margossian et al. 2024), a divisor of ``chains``.
        The chains of a superchain have the same starting point and different random numbers. By
        default each chain has its own starting point. `gptbayes.inference.superchains_of` returns
        the superchain of each chain.
    init : {"random", "pathfinder", "optimize"}
        Starting point of each chain or superchain. "random": a draw from the prior with twice its
        sd. "pathfinder": a draw from a Pathfinder path that starts there. "optimize": the mode that
        L-BFGS finds from there, as for the members of a deep ensemble (Lakshminarayanan et al.
        2017; Sommer et al. 2024). Only random starting points are overdispersed. The log density
        of a mode is above that of all draws.
    metric : {"prior", "diag_e", "dense_e", "unit_e"}
        "prior": the inverse metric is the prior variance throughout, and only the step size is
        adapted. This equals a unit metric for parameters in units of their prior sd. The others
        are Stan's: a diagonal or dense metric estimated during warm-up, which takes at least 20
        iterations, or the identity.
    adapt_delta : float, optional
        Target acceptance statistic of the step-size adaptation, between 0 and 1: 0.6 with the
        metric "prior", and Stan's 0.8 with the others. Larger steps make trajectories of the
        default depth longer, which pays at stage 12 and does not at stage 05.
    max_treedepth : int, optional
        A trajectory has at most ``2**max_treedepth - 1`` steps. The default is 7 with the metric
        "prior", and Stan's 10 with the others. With the prior's metric longer trajectories seldom
        give more effective draws per gradient. The report warns of trajectories that were cut off
        before a quarter of a period of the prior.
    kernels : {"auto", "stan", "c++"}
        Implementation of the likelihood. "stan" is plain Stan. "c++" has an analytic gradient,
        equals plain Stan up to rounding, and is many times faster. "auto" is "c++" where it can be
        compiled.
    seed : int
    only : str, optional
        A chain, such as "chain-3", the only one that is run. So each process of many, on machines
        that share a disk, runs one chain of the same run directory, which is not locked. The same
        call without it afterwards checks and records the chains, and runs those that are missing.
    executor : concurrent.futures.Executor, optional
        Runs the chains. By default a pool with one worker for each core of this machine; with
        ``client.get_executor()`` of a Dask client, its workers, which need share no disk with it.
    on_progress : callable, optional
        Called several times a second with the progress of all chains.

    Returns
    -------
    pathlib.Path
        The run directory, for `gptbayes.inference.open_run`.

    Raises
    ------
    ValueError
        If an argument is out of range, or if ``out`` holds a run of another configuration.
    RuntimeError
        If a chain fails, or if disk or memory are too small. Finished chains are kept.

    See Also
    --------
    pathfinder : A fast approximation.
    optimize : Posterior modes.
    prior : Draws from the prior.

    Examples
    --------
    Two chains of the fifth stage (needs CmdStan, and compiles the program at first use)::

        problem = make_problem(stage("05"), zen_of_python())
        folder = nuts(problem, "runs/05-nuts", chains=2, seed=1)
        idata = gptbayes.inference.open_run(folder)
    """
    check_one_of("init", init, INITS)
    check_one_of("metric", metric, METRICS)
    usual = PRIOR_DEFAULTS if metric == "prior" else STAN_DEFAULTS
    iter_warmup = usual["iter_warmup"] if iter_warmup is None else iter_warmup
    adapt_delta = usual["adapt_delta"] if adapt_delta is None else adapt_delta
    max_treedepth = usual["max_treedepth"] if max_treedepth is None else max_treedepth
    chains, iter_warmup, iter_sampling, thin, max_treedepth = positive(
        chains=chains,
        iter_warmup=iter_warmup,
        iter_sampling=iter_sampling,
        thin=thin,
        max_treedepth=max_treedepth,
    )
    if iter_sampling % thin:
        raise ValueError(f"thin must divide iter_sampling, got {thin} and {iter_sampling}")
    superchains = _superchains(chains, superchains)
    adapt_delta = real_number("adapt_delta", adapt_delta, "between 0 and 1")
    if not 0 < adapt_delta < 1:
        raise ValueError(f"adapt_delta must be between 0 and 1, got {adapt_delta!r}")
    numbers, start_of = chosen(only, "chain", chains), start_of_chain(chains, superchains)
    settings = {
        "chains": chains,
        "superchains": superchains,
        "iter_warmup": iter_warmup,
        "iter_sampling": iter_sampling,
        "thin": thin,
        "init": init,
        "metric": metric,
        "adapt_delta": adapt_delta,
        "max_treedepth": max_treedepth,
    }
    arguments = {
        "chains": 1,
        "iter_warmup": iter_warmup,
        "thin": thin,
        "adapt_delta": adapt_delta,
        "max_treedepth": max_treedepth,
        "refresh": max(1, (iter_warmup + iter_sampling) // PROGRESS_MESSAGES),
        "show_progress": False,
    }
    n_draws = chains * iter_sampling // thin
    with run_directory(
        problem, out, "nuts", settings, seed, n_draws,
        kernels=kernels, growing="iter_sampling", shared=only is not None,
    ) as run:  # fmt: skip
        first, *more = parts_of(read_config(run.folder)["settings"])
        n_starts, wanted = superchains or chains, {start_of[k - 1] for k in numbers}
        inits = chain_inits(run, problem, init, n_starts, wanted, executor, on_progress)
        arguments |= _metric_arguments(run, problem, metric, iter_warmup)
        units = [
            make_unit(
                run,
                f"chain {k}",
                "sample",
                {
                    **arguments,
                    "chain_ids": [k],
                    "inits": str(inits[start_of[k - 1]]),
                    "iter_sampling": first.n_iterations,
                },
                total=iter_warmup + first.n_iterations,
                n_draws=first.n_draws,
            )
            for k in numbers
        ]
        run_units(run, units, executor, on_progress)
        for before, part in pairwise([first, *more]):
            units = [
                make_unit(
                    run,
                    label_of(k, part),
                    "sample",
                    {
                        "chains": 1,
                        "chain_ids": [k],
                        "max_treedepth": max_treedepth,
                        "refresh": max(1, part.n_iterations // PROGRESS_MESSAGES),
                        "show_progress": False,
                        **continued_arguments(run, problem, k, before, part, metric, thin),
                    },
                    total=thin - 1 + part.n_iterations,
                    n_draws=part.n_draws,
                )
                for k in numbers
            ]
            run_units(run, units, executor, on_progress)
    return Path(out)


def start_of_chain(chains: int, superchains: int | None) -> list[int]:
    """Index of the starting point of each chain of `nuts`.

    Parameters
    ----------
    chains : int
    superchains : int or None
        As for `nuts`.

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


def _superchains(chains, superchains):
    if superchains is None:
        return None
    (superchains,) = positive(superchains=superchains)
    if chains % superchains:
        raise ValueError(f"superchains must divide chains, got {superchains} and {chains}")
    return superchains
