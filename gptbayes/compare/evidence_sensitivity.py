"""Sensitivity of the evidence to the scales of the prior.

Doubling a prior scale changes the prior predictive distribution, and with it the evidence, even if
the posterior predictions hardly change. With c times a scale the evidence is

    Z(c) = Z(1) E[p_c(θ) / p_1(θ)],

where the ratio of prior densities is averaged over the posterior. The derivative with respect to
log c is a plain posterior mean. The ratio itself has heavy tails if there are many parameters,
which Pareto k shows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import replace
from pathlib import Path

import arviz as az
import numpy as np
import xarray as xr
from scipy.special import digamma, gammaln, logsumexp

from gptbayes import fit
from gptbayes.compare.refit_plan import FittedRun
from gptbayes.findings import pareto_k_limit, pareto_k_limit_words, plus_minus
from gptbayes.groups import pareto_smoothed
from gptbayes.inference import open_run, parameters_of, problem_of, settings_of
from gptbayes.model.problem import Problem
from gptbayes.stats.standard_error import standard_error

FACTORS = (0.8, 1.25)
"""Factors by which each scale is multiplied by default."""


def scale_sensitivity(idata: az.InferenceData, factors: Sequence[float] = FACTORS) -> xr.Dataset:
    """Estimate how the log evidence changes with each prior scale, from the draws of one fit.

    Parameters
    ----------
    idata : InferenceData
        Several chains or replicates are needed for standard errors.
    factors : sequence of float
        Factors by which each scale is multiplied.

    Returns
    -------
    Dataset (family, factor)
        ``scale`` (family), the prior scale of the fit; ``derivative`` (family), of log Z with
        respect to the log of the scale, and its standard error ``derivative_se`` from the spread of
        the chains; ``change``, log Z(factor) - log Z, its standard error ``change_se``, and the
        ``pareto_k`` of its importance ratios. If k is above its limit for ``n_draws`` draws, the
        change is unreliable, see `refit_with_scale`. In nats.

    Raises
    ------
    ValueError
        If a factor is not positive.
    """
    if any(not factor > 0 for factor in factors):
        raise ValueError(f"factors must be positive, got {list(factors)}")
    problem, parameters = problem_of(idata), parameters_of(idata)
    families = list(dict.fromkeys(p.family for p in problem.stage.parameters))
    rows = []
    for family in families:
        slopes = _slope(problem, parameters, family).mean(axis=1)
        ratios = [_log_ratio(problem, parameters, family, factor) for factor in factors]
        changes = [_change(each) for each in ratios]
        rows.append(
            xr.Dataset(
                {
                    "scale": getattr(problem.priors, family),
                    "derivative": slopes.mean(),
                    "derivative_se": standard_error(slopes),
                    "change": ("factor", [each[0] for each in changes]),
                    "change_se": ("factor", [each[1] for each in changes]),
                    "pareto_k": ("factor", [each[2] for each in changes]),
                }
            )
        )
    joined = xr.concat(rows, "family")
    n_draws = idata.posterior.sizes["chain"] * idata.posterior.sizes["draw"]
    return joined.assign_coords(family=families, factor=list(factors)).assign(n_draws=n_draws)


def scale_sentences(sensitivity: xr.Dataset) -> list[str]:
    """State the sensitivity to each prior scale, one sentence for each family of parameters.

    Parameters
    ----------
    sensitivity : Dataset (family, factor)
        As of `scale_sensitivity`.

    Returns
    -------
    list of str
    """
    said, n_draws = [], int(sensitivity["n_draws"])
    for family in sensitivity["family"].values:
        row = sensitivity.sel(family=family)
        change, error = (math.log(1.1) * float(row[f"derivative{part}"]) for part in ("", "_se"))
        text = (
            f"{family}: a scale 10 % larger than {float(row['scale']):.3g} changes the log "
            f"evidence by {plus_minus(change, error, 2, sign='+')} nats, to first order"
        )
        known = row.isel(factor=np.flatnonzero(row["pareto_k"] <= pareto_k_limit(n_draws)))
        parts = [
            f"{float(known['factor'][i]):g} times it by "
            f"{plus_minus(known['change'][i], known['change_se'][i], 2, sign='+')}"
            for i in range(known.sizes["factor"])
        ]
        if parts:
            text += f"; {', '.join(parts)}"
        if known.sizes["factor"] < row.sizes["factor"]:
            lost = [f"{f:g}" for f in row["factor"].values if f not in known["factor"].values]
            limit = pareto_k_limit_words(n_draws)
            text += f"; for {' and '.join(lost)} times it, Pareto k is above {limit}: refit"
        said.append(text)
    return said


def refit_with_scale(
    run: FittedRun,
    family: str,
    factor: float,
    *,
    executor: Executor | None = None,
    on_progress: Callable[[list[fit.Progress]], None] | None = None,
) -> az.InferenceData:
    """Fit a run again with one prior scale changed, for changes too large for importance sampling.

    Parameters
    ----------
    run : FittedRun
        By `gptbayes.fit.smc`.
    family : str
        A field of `gptbayes.model.priors.Priors`.
    factor : float
        By which the scale is multiplied.
    executor, on_progress
        As for `gptbayes.fit.smc`.

    Returns
    -------
    InferenceData
        Of the run directory ``RUN/scales/FAMILY-FACTOR``, for `gptbayes.compare.model_evidence`.
    """
    problem = problem_of(run.idata)
    scale = getattr(problem.priors, family, None)
    priors = problem.priors.replace(**{family: factor * (scale or 1.0)})
    settings = settings_of(run.idata)
    del settings["draws"]
    folder = fit.smc(
        replace(problem, priors=priors),
        Path(run.folder) / "scales" / f"{family}-{factor:g}",
        seed=int(run.idata.attrs["seed"]),
        kernels=run.idata.attrs["kernels"],
        executor=executor,
        on_progress=on_progress,
        **settings,
    )
    return open_run(folder)


def _elements(problem: Problem, parameters, family):
    """All parameters of a family: the parameter, and its values (chain, draw, element)."""
    for p in problem.stage.parameters:
        if p.family == family:
            value = parameters[p.name]
            yield p, value.reshape(*value.shape[:2], -1)


def _slope(problem, parameters, family):
    """Derivative of the log prior in the log of a scale, (chain, draw)."""
    total = 0.0
    for p, values in _elements(problem, parameters, family):
        scale = getattr(problem.priors, family)
        if p.prior == "log_gamma":
            total = total + scale * (values - digamma(scale)).sum(axis=-1)
        else:
            total = total + (((values - p.prior_mean) / scale) ** 2 - 1).sum(axis=-1)
    return total


def _log_ratio(problem, parameters, family, factor):
    """Log of the normalised prior with a changed scale over that with the fit's, (chain, draw)."""
    total = 0.0
    for p, values in _elements(problem, parameters, family):
        scale = getattr(problem.priors, family)
        if p.prior == "log_gamma":
            each = (factor - 1) * scale * values - gammaln(factor * scale) + gammaln(scale)
        else:
            square = ((values - p.prior_mean) / scale) ** 2
            each = -math.log(factor) + (1 - factor**-2) * square / 2
        total = total + each.sum(axis=-1)
    return total


def _change(log_ratio):
    """Log of the mean ratio, its standard error over chains, and the Pareto k of the ratios."""
    smoothed_k = pareto_smoothed(log_ratio.ravel())[1]
    value = logsumexp(log_ratio) - math.log(log_ratio.size)
    of_chain = np.exp(logsumexp(log_ratio, axis=1) - math.log(log_ratio.shape[1]) - value)
    return float(value), float(standard_error(of_chain)), smoothed_k
