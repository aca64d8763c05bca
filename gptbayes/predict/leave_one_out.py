"""Leave-one-sequence-out cross-validation."""

from __future__ import annotations

from collections.abc import Mapping

import arviz as az
import numpy as np
import xarray as xr
from scipy.optimize import minimize

from gptbayes.findings import Finding, pareto_k_limit, pareto_k_limit_words
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
        As of `psis_loo`. If ``pareto_k`` is above ``pareto_k_limit``, the estimate for that
        sequence is not reliable. This is common: a bigram that occurs in no other sequence is
        enough.

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
    return psis_loo(idata.log_likelihood["log_lik"].sum("position", skipna=False))


def psis_loo(log_lik: xr.DataArray) -> xr.Dataset:
    """Compute leave-one-out cross-validation by PSIS (Vehtari et al. 2017, 2024).

    Parameters
    ----------
    log_lik : DataArray (chain, draw, ...)
        Log likelihood of each unit, in nats.

    Returns
    -------
    Dataset
        ``loo_i`` (...), the log predictive density of each unit given all others, in nats, nan
        where the log likelihood of a draw is not finite; its sum ``elpd_loo`` and the standard
        error ``se``; ``p_loo``, the effective number of
        parameters; ``pareto_k`` (...); its limit for this number of draws, ``pareto_k_limit``, as
        of `gptbayes.findings.pareto_k_limit`; ``n_draws``; and ``warning``, whether any k is above
        the limit.
    """
    ordered = log_lik.transpose("chain", "draw", ...)
    n_draws = ordered.sizes["chain"] * ordered.sizes["draw"]
    values = ordered.values.reshape(n_draws, -1)  # (draw, unit)
    # The relative efficiency is that of log densities. That of weights, ArviZ's default, depends
    # on symmetries which do not change predictions.
    effective = float(ess(log_lik, ("bulk",))["ess_bulk"].mean())
    share = min(1.0, effective / n_draws) if np.isfinite(effective) else 1 / n_draws
    undefined = np.full(n_draws, np.nan), np.inf
    smoothed = [
        pareto_smoothed(-column, share) if np.isfinite(column).all() else undefined
        for column in values.T
    ]
    log_weights = np.stack([weights for weights, _ in smoothed], axis=1)
    with np.errstate(invalid="ignore"):  # of draws that are nan or infinite
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
            "pareto_k_limit": pareto_k_limit(n_draws),
            "n_draws": n_draws,
            "warning": (k > pareto_k_limit(n_draws)).any(),
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
        are those of a mixture of predictive distributions. They are not model probabilities. All
        are nan if a term of one fit is undefined, and so are its differences.

    See Also
    --------
    gptbayes.compare : Comparison with refits, held-out text and evidence.
    """
    totals = {name: float(each["loo_i"].sum(skipna=False)) for name, each in elpds.items()}
    names = sorted(elpds, key=lambda name: -np.nan_to_num(totals[name], nan=-np.inf))
    terms = np.stack([elpds[name]["loo_i"].values.ravel() for name in names])  # (fit, unit)
    differences = terms - terms[0]
    columns = {
        "difference": differences.sum(axis=1),
        "difference_se": np.sqrt(terms.shape[1] * differences.var(axis=1)),
        "weight": stacking_weights(terms),
    }
    return xr.Dataset({name: ("fit", each) for name, each in columns.items()}, {"fit": names})


def n_bad_pareto_k(result: xr.Dataset) -> int:
    """Count the units with a Pareto k above the limit for the number of draws.

    Parameters
    ----------
    result : Dataset
        As of `loo`.

    Returns
    -------
    int
    """
    return int((result["pareto_k"] > result["pareto_k_limit"]).sum())


def loo_finding(result: xr.Dataset) -> Finding:
    """State the elpd and whether it is reliable.

    Parameters
    ----------
    result : Dataset
        As of `loo`.

    Returns
    -------
    gptbayes.findings.Finding
        A warning if Pareto k is above its limit for any sequence.
    """
    bad, n = n_bad_pareto_k(result), len(result.pareto_k)
    elpd, se, p = (float(result[name]) for name in ("elpd_loo", "se", "p_loo"))
    undefined = int(result["loo_i"].isnull().sum())
    if undefined:
        return Finding(
            False,
            f"leave-one-sequence-out is undefined for {undefined} of {n} sequences, whose log_lik "
            "is nan or infinite in a draw",
        )
    limit = pareto_k_limit_words(int(result["n_draws"]))
    text = "leave-one-sequence-out by PSIS"
    numbers = f"elpd {elpd:.1f}, standard error {se:.1f} nats, effective parameters {p:.1f}"
    if not bad:
        return Finding(
            True, f"{text}: {numbers}; Pareto k is at most {limit}, for all {n} sequences"
        )
    return Finding(
        False,
        f"{text} is not reliable: for {bad} of {n} sequences Pareto k is above {limit}; {numbers}; "
        "use the held-out density, or gptbayes compare, which refits without these sequences",
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
        They sum to one; nan if a term is not finite.
    """
    if not np.isfinite(terms).all():
        return np.full(len(terms), np.nan)
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
