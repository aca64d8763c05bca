"""Leave-one-out where the unit is a sequence."""

from __future__ import annotations

from collections.abc import Mapping

import arviz as az
import numpy as np
import xarray as xr
from scipy.optimize import minimize

from gptbayes.findings import PARETO_K_LIMIT, Finding
from gptbayes.groups import pareto_smoothed
from gptbayes.stats.summary import ess


def loo(idata: az.InferenceData) -> xr.Dataset:
    """PSIS-LOO where the unit left out is a sequence (Vehtari et al. 2017, 2024).

    Parameters
    ----------
    idata : InferenceData

    Returns
    -------
    Dataset
        As of `psis_loo`, dims ``sequence``. Where ``pareto_k`` is above 0.7 the estimate for that
        sequence is not to be trusted: a bigram that no other sequence has makes it so.
    """
    return psis_loo(idata.log_likelihood["log_lik"].sum("position"))


def psis_loo(log_lik: xr.DataArray) -> xr.Dataset:
    """Leave-one-out cross-validation by Pareto-smoothed importance sampling (Vehtari et al. 2017).

    Parameters
    ----------
    log_lik : DataArray (chain, draw, ...)
        Of every unit that is left out, in nats.

    Returns
    -------
    Dataset
        In nats: ``loo_i`` (...), the log predictive density of each unit given all others, their
        sum ``elpd_loo`` with its standard error ``se``, and ``p_loo``, the effective number of
        parameters; ``pareto_k`` (...); ``warning``, whether any k is above what so many draws
        allow (Vehtari et al. 2024).
    """
    ordered = log_lik.transpose("chain", "draw", ...)
    n_draws = ordered.sizes["chain"] * ordered.sizes["draw"]
    values = ordered.values.reshape(n_draws, -1)  # (draw, unit)
    # Efficiency of what is averaged; that of weights says where on an orbit they are.
    effective = (
        float(ess(log_lik, ("bulk",))["ess_bulk"].mean()) if log_lik.sizes["draw"] > 3 else 1
    )
    smoothed = [pareto_smoothed(-column, min(1.0, effective / n_draws)) for column in values.T]
    log_weights = np.stack([weights for weights, _ in smoothed], axis=1)
    terms = np.logaddexp.reduce(log_weights + values)
    in_sample = np.logaddexp.reduce(values) - np.log(n_draws)
    like = ordered.isel(chain=0, draw=0, drop=True)
    k = like.copy(data=np.reshape([k for _, k in smoothed], like.shape))
    loo_i = like.copy(data=terms.reshape(like.shape))
    return xr.Dataset(
        {
            "elpd_loo": terms.sum(),
            "se": np.sqrt(terms.size * terms.var()),
            "p_loo": (in_sample - terms).sum(),
            "loo_i": loo_i,
            "pareto_k": k,
            "warning": (k > min(1 - 1 / np.log10(n_draws), PARETO_K_LIMIT)).any(),
        }
    )


def stacked(elpds: Mapping[str, xr.Dataset]) -> xr.Dataset:
    """Differences of elpd with paired standard errors, and stacking weights.

    Parameters
    ----------
    elpds : mapping of str to Dataset
        At least two, of the same sequences, as `loo` returns them.

    Returns
    -------
    Dataset (fit)
        Best first: ``difference`` to the best in nats (0 or less), ``difference_se``, and
        ``weight``, that of stacking (Yao et al. 2018): weights for a mixture that predicts, no
        probabilities of models.
    """
    names = sorted(elpds, key=lambda name: -float(elpds[name]["loo_i"].sum()))
    terms = np.stack([elpds[name]["loo_i"].values.ravel() for name in names])  # (fit, unit)
    differences = terms - terms[0]
    columns = {
        "difference": differences.sum(axis=1),
        "difference_se": np.sqrt(terms.shape[1] * differences.var(axis=1)),
        "weight": _stacking_weights(terms),
    }
    return xr.Dataset({name: ("fit", each) for name, each in columns.items()}, {"fit": names})


def n_bad_pareto_k(result: xr.Dataset) -> int:
    """How many units have a Pareto k above 0.7 in a `loo`."""
    return int((result["pareto_k"] > PARETO_K_LIMIT).sum())


def loo_finding(result: xr.Dataset) -> Finding:
    """State the elpd of a `loo`, and whether it can be relied on.

    Parameters
    ----------
    result : Dataset
        As of `loo`.

    Returns
    -------
    gptbayes.findings.Finding
        A warning if Pareto k is above 0.7 for any sequence.
    """
    bad, n = n_bad_pareto_k(result), len(result.pareto_k)
    elpd, se, p = (float(result[name]) for name in ("elpd_loo", "se", "p_loo"))
    text = (
        f"leave-one-sequence-out by PSIS: elpd {elpd:.1f}, standard error {se:.1f} nats, effective "
        f"parameters {p:.1f}; Pareto k is "
    )
    if not bad:
        return Finding(True, f"{text}at most {PARETO_K_LIMIT} for all {n} sequences")
    return Finding(
        False,
        f"{text}above {PARETO_K_LIMIT} for {bad} of {n} sequences, so the elpd is not reliable: "
        "use the held-out density, or gptbayes compare, which refits without these sequences",
    )


def _stacking_weights(terms):
    """Weights of the mixture of most log predictive density, (fit,), from terms (fit, unit)."""
    density = np.exp(terms - terms.max(axis=0))  # of each unit relative to the best fit of it

    def negative_score(weights):
        mixed = weights @ density
        return -np.log(mixed).sum(), -(density / mixed).sum(axis=1)

    n = len(terms)
    found = minimize(
        negative_score,
        np.full(n, 1 / n),
        jac=True,
        method="SLSQP",
        bounds=[(0, 1)] * n,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1, "jac": np.ones_like},
        options={"maxiter": 1000, "ftol": 1e-10},
    ).x
    weights = np.clip(found, 0, 1)
    return weights / weights.sum()
