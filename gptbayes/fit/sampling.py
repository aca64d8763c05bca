"""Sampling with NUTS, and with HMC of a given trajectory length."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

from gptbayes.corpus import real_number
from gptbayes.fit.chains import Sampler, chain_settings, run_chains
from gptbayes.fit.checks import check_one_of, positive
from gptbayes.fit.hmc_statistics import JITTER
from gptbayes.fit.units import STATIC_HMC, Progress
from gptbayes.model.problem import Problem

METRICS = ("prior", "diag_e", "dense_e", "unit_e")
PRIOR_DEFAULTS: dict[str, Any] = {"iter_warmup": 100, "adapt_delta": 0.6, "max_treedepth": 7}
"""With the prior's metric, for which only a step size has to be found."""
STAN_DEFAULTS: dict[str, Any] = {"iter_warmup": 300, "adapt_delta": 0.8, "max_treedepth": 10}
"""With Stan's metrics: Stan's own defaults, but for a shorter warm-up than its 1,000."""
MOST_LENGTH = 1_000.0
"""The longest trajectory that HMC may have, in prior standard deviations."""
_ONE_CHAIN = {"chains": 1, "show_progress": False}
"""Arguments of `cmdstanpy.CmdStanModel.sample`."""


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
    check_one_of("metric", metric, METRICS)
    usual = PRIOR_DEFAULTS if metric == "prior" else STAN_DEFAULTS
    max_treedepth = usual["max_treedepth"] if max_treedepth is None else max_treedepth
    (max_treedepth,) = positive(max_treedepth=max_treedepth)
    settings = chain_settings(
        chains=chains,
        superchains=superchains,
        iter_warmup=usual["iter_warmup"] if iter_warmup is None else iter_warmup,
        iter_sampling=iter_sampling,
        thin=thin,
        init=init,
        adapt_delta=usual["adapt_delta"] if adapt_delta is None else adapt_delta,
    )
    return run_chains(
        problem,
        out,
        _nuts_sampler(max_treedepth, metric),
        {**settings, "metric": metric, "max_treedepth": max_treedepth},
        kernels=kernels,
        seed=seed,
        only=only,
        executor=executor,
        on_progress=on_progress,
    )


def hmc(
    problem: Problem,
    out: str | Path,
    *,
    chains: int = 4,
    superchains: int | None = None,
    iter_warmup: int = 100,
    iter_sampling: int = 1000,
    thin: int = 2,
    init: str = "random",
    adapt_delta: float = 0.7,
    trajectory_length: float = 1.5,
    kernels: str = "auto",
    seed: int = 1,
    only: str | None = None,
    executor: Executor | None = None,
    on_progress: Callable[[list[Progress]], None] | None = None,
) -> Path:
    """Sample from the posterior by HMC with trajectories of a given length.

    The method is Hamiltonian Monte Carlo (Duane et al. 1987; Neal 2011) as Stan has it, with the
    prior variances as inverse metric. A parameter about which nothing was learned then has a
    period of 2π prior standard deviations. Trajectories of a quarter of it, which are the default,
    give an independent value of such a parameter, those of half of it only mirror it, and those of
    a whole one bring it back. The length of each trajectory is random, within a fifth of
    ``trajectory_length``, so that no other period is met each time.

    NUTS finds the length of each trajectory itself. For this it goes both ways, and its draws are
    nearer to the last one than as many steps in one direction would take them.

    Parameters
    ----------
    problem : Problem
    out : path
        The run directory, as for `nuts`.
    chains, superchains, init, kernels, seed, only, executor, on_progress
        As for `nuts`.
    iter_warmup : int
        Number of warm-up iterations of each chain, in which the step size is found. They are by
        NUTS with a tree depth of at most 7: the first steps are so small that trajectories of a
        given length would take thousands of them.
    iter_sampling, thin : int
        As for `nuts`. A trajectory costs a fraction of one of NUTS: with the defaults a chain has
        500 draws, as by `nuts`.
    adapt_delta : float
        Target acceptance statistic of NUTS in warm-up, between 0 and 1.
    trajectory_length : float
        In units of prior standard deviations. A quarter of a period is π / 2. The report says how
        strongly iterations are correlated by it where nothing was learned.

    Returns
    -------
    pathlib.Path
        The run directory, for `gptbayes.inference.open_run`.

    Raises
    ------
    ValueError, RuntimeError
        As `nuts`.

    See Also
    --------
    nuts : Finds the lengths of trajectories.

    Examples
    --------
    ::

        problem = make_problem(stage("05"), zen_of_python())
        folder = hmc(problem, "runs/05-hmc", chains=4, seed=1)
        idata = gptbayes.inference.open_run(folder)
    """
    length = real_number("trajectory_length", trajectory_length, "positive")
    if not 0 < length < MOST_LENGTH:
        raise ValueError(
            f"trajectory_length must be between 0 and {MOST_LENGTH:,.0f}, got {length!r}"
        )
    settings = chain_settings(
        chains=chains,
        superchains=superchains,
        iter_warmup=iter_warmup,
        iter_sampling=iter_sampling,
        thin=thin,
        init=init,
        adapt_delta=adapt_delta,
    )
    return run_chains(
        problem,
        out,
        Sampler(
            "hmc",
            STATIC_HMC,
            {"int_time": length, "step_size_jitter": JITTER},
            warm_up=_nuts_sampler(PRIOR_DEFAULTS["max_treedepth"], "prior"),
        ),
        {**settings, "trajectory_length": length},
        kernels=kernels,
        seed=seed,
        only=only,
        executor=executor,
        on_progress=on_progress,
    )


def _nuts_sampler(max_treedepth, metric):
    return Sampler("nuts", "sample", {**_ONE_CHAIN, "max_treedepth": max_treedepth}, metric)
