"""Leave-one-sequence-out: PSIS where it is reliable, exact refits where it is not.

If a bigram occurs in one sequence only, the importance ratios of that sequence have a heavy tail:
Pareto k is above its limit and PSIS is unreliable. The posterior without the sequence is then
fitted again, and its log predictive density of the sequence replaces the PSIS term (Vehtari,
Gelman & Gabry 2017, section 2.1). Each refit is a run directory under ``RUN/refits``, so that
interrupted refits resume.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import xarray as xr

from gptbayes import fit
from gptbayes.compare.refit_plan import FittedRun, plan_refits, refit_folder, refit_settings
from gptbayes.corpus import Windows
from gptbayes.findings import R_HAT_LIMIT, pareto_k_limit
from gptbayes.groups import pareto_smoothed
from gptbayes.inference import open_run, parameters_of, problem_of
from gptbayes.model.forward import token_log_prob
from gptbayes.model.problem import Problem
from gptbayes.predict import loo
from gptbayes.stats.summary import log_mean_exp, summarise

OnProgress = Callable[[list[fit.Progress]], None]


class ExactLoo(NamedTuple):
    """Leave-one-sequence-out by PSIS, with exact refits.

    Attributes
    ----------
    elpd : Dataset
        LOO with the exact terms of refitted sequences in ``loo_i``, and ``elpd_loo``, ``se`` and
        ``p_loo`` computed from them. ``pareto_k`` is that of PSIS for all sequences. ``warning``
        is True if an unreliable term is left.
    psis : Dataset
        LOO by PSIS only.
    refits : Dataset (sequence)
        One item for each refit: ``pareto_k`` of PSIS; the terms by ``psis`` and by the ``exact``
        refit, in nats; the Monte Carlo standard error ``mcse`` of the exact one; ``r_hat`` and
        ``ess_bulk`` of the log density of the sequence that is left out; ``density_k``, the tail
        shape of its density over draws, and its limit ``density_k_limit``: a few draws dominate a
        mean with a larger one (Vehtari et al. 2024, section 5); ``divergences``.
    n_unreliable : int
        Number of sequences with a Pareto k above its limit that were not refitted.
    """

    elpd: xr.Dataset
    psis: xr.Dataset
    refits: xr.Dataset
    n_unreliable: int

    @property
    def refits_with_warnings(self) -> xr.Dataset:
        """The refits with a diagnostic that is out of its limits."""
        refits = self.refits
        warned = (refits["r_hat"] > R_HAT_LIMIT) | (refits["divergences"] > 0)
        warned |= refits["density_k"] > refits["density_k_limit"]
        return refits.isel(sequence=np.flatnonzero(warned))


def exact_loo(
    run: FittedRun,
    *,
    refits: str | int = "all",
    settings: Mapping[str, object] | None = None,
    psis: xr.Dataset | None = None,
    executor: Executor | None = None,
    on_progress: OnProgress | None = None,
) -> ExactLoo:
    """Estimate leave-one-sequence-out elpd, with exact refits where PSIS is unreliable.

    Parameters
    ----------
    run : FittedRun
        Of NUTS or HMC, with likelihood weight 1.
    refits, settings
        As for `plan_refits`.
    psis : Dataset, optional
        `gptbayes.predict.loo` of the run, if it has been computed.
    executor : concurrent.futures.Executor, optional
        Runs the chains of each refit, as for `gptbayes.fit.nuts`.
    on_progress : callable, optional
        Called several times a second with the progress of all refits together.

    Returns
    -------
    ExactLoo

    Raises
    ------
    ValueError
        If ``refits`` or a setting is out of range, or if the folder of a refit holds a fit with
        other settings.
    RuntimeError
        If a chain fails. Finished refits are kept.

    See Also
    --------
    gptbayes.predict.loo : PSIS only.
    """
    psis = loo(run.idata) if psis is None else psis
    plan = plan_refits(run, psis, refits=refits, settings=settings)
    n_fits, rows = len(plan.sequences), []
    for i, sequence in enumerate(plan.sequences):
        listen = combined_progress(f"{run.name}: {n_fits} refits", i, n_fits, on_progress)
        density = refit_density(
            run, sequence, settings=settings, executor=executor, on_progress=listen
        )
        density["pareto_k"] = float(psis.pareto_k[sequence])
        density["psis"] = float(psis.loo_i[sequence])
        rows.append(density.assign_coords(sequence=sequence))
    exact = xr.concat(rows, "sequence").sortby("sequence") if rows else _no_refits()
    n_unreliable = plan.n_bad - n_fits
    return ExactLoo(_with_exact_terms(psis, exact, n_unreliable), psis, exact, n_unreliable)


def refit_density(
    run: FittedRun,
    sequence: int,
    *,
    settings: Mapping[str, object] | None = None,
    executor: Executor | None = None,
    on_progress: OnProgress | None = None,
) -> xr.Dataset:
    """Fit the posterior without a sequence, and compute the predictive density of the sequence.

    Parameters
    ----------
    run : FittedRun
    sequence : int
        0-based, as in the coordinates of ``log_likelihood``.
    settings, executor, on_progress
        As for `exact_loo`.

    Returns
    -------
    Dataset ()
        ``exact``, the log predictive density of the sequence in nats, and its Monte Carlo
        standard error ``mcse`` by the delta method; ``r_hat`` and ``ess_bulk`` of the log density
        over draws; ``density_k``, the tail shape of the density over draws, and its limit
        ``density_k_limit``; ``divergences``.

    Raises
    ------
    ValueError, RuntimeError
        As `exact_loo`.
    """
    problem, folder = problem_of(run.idata), refit_folder(run, sequence)
    refit(run, without_sequence(problem, sequence), folder, settings, executor, on_progress)
    idata = open_run(folder)
    left_out = Windows(*(part[[sequence]] for part in problem.training))
    values = token_log_prob(problem.stage, parameters_of(idata), left_out).sum(axis=(-1, -2))
    log_density = xr.DataArray(values, dims=("chain", "draw"))
    mean = log_mean_exp(log_density)
    ratios = log_density.copy(data=np.exp((log_density - mean).values))
    summary = summarise(log_density)
    return xr.Dataset(
        {
            "exact": mean,
            "mcse": summarise(ratios)["mcse_mean"],
            "r_hat": summary["r_hat"],
            "ess_bulk": summary["ess_bulk"],
            "density_k": pareto_smoothed(values.ravel())[1],
            "density_k_limit": pareto_k_limit(values.size),
            "divergences": idata.sample_stats["diverging"].sum(),
        }
    )


def without_sequence(problem: Problem, sequence: int) -> Problem:
    """Remove one training sequence from a problem.

    Parameters
    ----------
    problem : Problem
    sequence : int
        0-based.

    Returns
    -------
    Problem
        Its ``source`` names the sequence that is left out.

    Raises
    ------
    ValueError
        If the problem has no such sequence, or only one.

    Examples
    --------
    >>> from gptbayes.corpus import zen_of_python
    >>> from gptbayes.model.problem import make_problem
    >>> from gptbayes.model.stages import stage
    >>> problem = make_problem(stage("01"), zen_of_python(), batch_size=5)
    >>> without_sequence(problem, 3).training.x.shape
    (4, 8)
    """
    n = problem.design.batch_size
    if n < 2 or not 0 <= sequence < n:
        raise ValueError(
            "sequence must be the 0-based number of one of at least 2 sequences, "
            f"got number {sequence} of {n}"
        )
    return replace(
        problem,
        design=replace(problem.design, batch_size=n - 1),
        training=Windows(*(np.delete(part, sequence, axis=0) for part in problem.training)),
        n_new_tokens=0,
        source=f"{problem.source}, without sequence {sequence}",
    )


def refit(run: FittedRun, problem, folder, settings, executor, on_progress) -> None:
    """Fit another problem with the settings of a run.

    Parameters
    ----------
    run : FittedRun
    problem : Problem
    folder : path
        Run directory of the refit.
    settings, executor, on_progress
        As for `exact_loo`.

    Raises
    ------
    ValueError, RuntimeError
        As `gptbayes.fit.nuts`.
    """
    own = {name: run.idata.attrs[name] for name in ("kernels", "seed")}
    config = {**refit_settings(run, settings), **own, "seed": int(own["seed"])}
    samplers: dict[str, Callable[..., Path]] = {"nuts": fit.nuts, "hmc": fit.hmc}
    sampler = samplers[run.idata.attrs["method"]]
    try:
        sampler(problem, folder, executor=executor, on_progress=on_progress, **config)
    except ValueError as error:
        if "another configuration" not in str(error):
            raise
        reason = str(error).split("; choose")[0]
        raise ValueError(f"{reason}; use the settings of that run, or delete it") from None


def combined_progress(label: str, n_done: int, n_fits: int, on_progress: OnProgress | None):
    """Make a callback that reports several successive fits as one unit of progress.

    Parameters
    ----------
    label : str
        Of the progress.
    n_done, n_fits : int
        Number of finished fits, and of all fits.
    on_progress : callable or None
        As for `exact_loo`.

    Returns
    -------
    callable or None
        The ``on_progress`` of the next fit.
    """
    if on_progress is None:
        return None

    def listen(units):
        chains = [unit for unit in units if unit.label.startswith("chain")]
        per_fit = sum(unit.total for unit in chains)
        if chains:  # none while Pathfinder finds their starting points
            done = n_done * per_fit + sum(unit.done for unit in chains)
            on_progress([fit.Progress(label, done, n_fits * per_fit, True)])

    return listen


def _no_refits():
    of_fit = ("exact", "mcse", "r_hat", "ess_bulk", "density_k", "density_k_limit", "divergences")
    empty = {name: ("sequence", np.zeros(0)) for name in (*of_fit, "pareto_k", "psis")}
    return xr.Dataset(empty, {"sequence": np.zeros(0, dtype=np.int64)})


def _with_exact_terms(psis, refits, n_unreliable):
    """LOO in which exact terms replace those of PSIS."""
    terms = psis["loo_i"].copy(deep=True)
    terms[refits["sequence"].values] = refits["exact"].values
    total = terms.sum(skipna=False)
    return psis.assign(
        loo_i=terms,
        elpd_loo=total,
        se=np.sqrt(terms.size * terms.var(skipna=False)),
        p_loo=psis["p_loo"] + psis["elpd_loo"] - total,
        warning=n_unreliable > 0,
    )
