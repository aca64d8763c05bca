"""Leave-one-sequence-out cross-validation."""

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
    """Compute PSIS-LOO in which the unit left out is a sequence (Vehtari et al. 2017, 2024).

    Parameters
    ----------
    idata : InferenceData
        With the group ``log_likelihood``.

    Returns
    -------
    Dataset (sequence)
        As of `psis_loo`. If ``pareto_k`` is above 0.7, the estimate for that sequence is not
        reliable. This is common: a bigram that occurs in no other sequence is enough.

    See Also
    --------
    compare_loo : Differences between fits.
    compare_held_out : Predictive density of held-out text.
    gptbayes.compare : Refits without the sequences of large Pareto k.

    Examples
    --------
    >>> import tempfile
    >>> import gptbayes as gb
    >>> problem = gb.make_problem(gb.stage("01"), gb.zen_of_python(), batch_size=11)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     idata = gb.open_run(gb.fit.prior(problem, folder, draws=20))
    >>> loo(idata)["pareto_k"].sizes
    Frozen({'sequence': 11})
    """
    return psis_loo(idata.log_likelihood["log_lik"].sum("position"))


def psis_loo(log_lik: xr.DataArray) -> xr.Dataset:
    """Compute leave-one-out cross-validation by PSIS (Vehtari et al. 2017, 2024).

    Parameters
    ----------
    log_lik : DataArray (chain, draw, ...)
        Log likelihood of each unit, in nats.

    Returns
    -------
    Dataset
        ``loo_i`` (...), the log predictive density of each unit given all others, in nats; its
        sum ``elpd_loo`` and the standard error ``se``; ``p_loo``, the effective number of
        parameters; ``pareto_k`` (...); and ``warning``, whether any k is above the limit for this
        number of draws (Vehtari et al. 2024).
    """
    ordered = log_lik.transpose("chain", "draw", ...)
    n_draws = ordered.sizes["chain"] * ordered.sizes["draw"]
    values = ordered.values.reshape(n_draws, -1)  # (draw, unit)
    # The relative efficiency is that of log densities. That of weights, ArviZ's default, depends
    # on symmetries which do not change predictions.
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


def compare_loo(elpds: Mapping[str, xr.Dataset]) -> xr.Dataset:
    """Compute differences of elpd with paired standard errors, and stacking weights.

    Parameters
    ----------
    elpds : mapping of str to Dataset
        At least two, for the same sequences, as of `loo`.

    Returns
    -------
    Dataset (fit)
        By decreasing elpd: ``difference`` from the best fit in nats (0 or less), its standard
        error ``difference_se``, and the stacking ``weight`` (Yao et al. 2018). Stacking weights
        are those of a mixture of predictive distributions. They are not model probabilities.

    See Also
    --------
    gptbayes.compare : Comparison with refits, held-out text and evidence.
    """
    names = sorted(elpds, key=lambda name: -float(elpds[name]["loo_i"].sum()))
    terms = np.stack([elpds[name]["loo_i"].values.ravel() for name in names])  # (fit, unit)
    differences = terms - terms[0]
    columns = {
        "difference": differences.sum(axis=1),
        "difference_se": np.sqrt(terms.shape[1] * differences.var(axis=1)),
        "weight": stacking_weights(terms),
    }
    return xr.Dataset({name: ("fit", each) for name, each in columns.items()}, {"fit": names})


def n_bad_pareto_k(result: xr.Dataset) -> int:
    """Return the number of units with a Pareto k above 0.7."""
    return int((result["pareto_k"] > PARETO_K_LIMIT).sum())


def loo_finding(result: xr.Dataset) -> Finding:
    """State the elpd and whether it is reliable.

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
        f"{text}above {PARETO_K_LIMIT} for {bad} of {n} sequences: the elpd is not reliable. "
        "Use the held-out density, or gptbayes compare, which refits without these sequences",
    )


def stacking_weights(terms: np.ndarray) -> np.ndarray:
    """Compute the weights of the mixture with the largest log score (Yao et al. 2018).

    Parameters
    ----------
    terms : ndarray (fit, unit)
        Log predictive densities, in nats.

    Returns
    -------
    ndarray (fit,)
        They sum to one.
    """
    density = np.exp(terms - terms.max(axis=0))  # relative to the best fit for each unit

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
