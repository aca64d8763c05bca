"""Leave-one-out where the unit is a sequence."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import arviz as az
import xarray as xr

from gptbayes.findings import PARETO_K_LIMIT, Finding
from gptbayes.stats.summary import ess


def loo(idata: az.InferenceData) -> az.ELPDData:
    """PSIS-LOO where the unit left out is a sequence (Vehtari et al. 2017, 2024).

    Parameters
    ----------
    idata : InferenceData

    Returns
    -------
    arviz.ELPDData
        Pointwise, dims ``sequence``. Where ``pareto_k`` is above 0.7 the estimate for that
        sequence is not to be trusted: a bigram that no other sequence has makes it so.
    """
    per_sequence = idata.log_likelihood["log_lik"].sum("position")
    groups = {"posterior": idata.posterior, "sample_stats": idata.sample_stats}
    reduced = az.InferenceData(**groups, log_likelihood=per_sequence.to_dataset(name="log_lik"))
    # Efficiency of what is averaged; that of weights says where on an orbit they are.
    effective = float(ess(per_sequence)["ess_bulk"].mean()) if per_sequence.sizes["draw"] > 3 else 1
    n_draws = per_sequence.sizes["chain"] * per_sequence.sizes["draw"]
    with warnings.catch_warnings():  # the result says how many, see n_bad_pareto_k
        warnings.simplefilter("ignore", UserWarning)
        return az.loo(reduced, pointwise=True, reff=min(1.0, effective / n_draws))


def stacked(elpds: Mapping[str, az.ELPDData]) -> xr.Dataset:
    """Differences of elpd with paired standard errors, and stacking weights, by ArviZ.

    Parameters
    ----------
    elpds : mapping of str to arviz.ELPDData
        At least two, pointwise and of the same sequences, as `loo` returns them.

    Returns
    -------
    Dataset (fit)
        Best first: ``difference`` to the best in nats (0 or less), ``difference_se``, and
        ``weight``, that of stacking (Yao et al. 2018): weights for a mixture that predicts, no
        probabilities of models.
    """
    terms = {name: each["loo_i"] for name, each in elpds.items()}
    best = xr.concat(list(terms.values()), "fit").max("fit")
    shifted = {}
    for name, each in elpds.items():
        shifted[name] = each.copy()
        # ArviZ exponentiates the terms, which underflow for long sequences; neither differences
        # nor weights change when the same is taken from the terms of all fits.
        shifted[name]["loo_i"] = terms[name] - best
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what it could warn of is said by whoever asks
        found = az.compare(shifted, ic="loo", method="stacking")
    columns = {
        "difference": 0.0 - found["elpd_diff"],
        "difference_se": found["dse"],
        "weight": found["weight"].clip(0, 1),
    }
    return xr.Dataset(
        {name: ("fit", column.to_numpy(float)) for name, column in columns.items()},
        {"fit": list(found.index)},
    )


def n_bad_pareto_k(result: az.ELPDData) -> int:
    """How many sequences have a Pareto k above 0.7 in a `loo`."""
    return int((result.pareto_k > PARETO_K_LIMIT).sum())


def loo_finding(result: az.ELPDData) -> Finding:
    """State the elpd of a `loo`, and whether it can be relied on.

    Parameters
    ----------
    result : arviz.ELPDData
        As of `loo`.

    Returns
    -------
    gptbayes.findings.Finding
        A warning if Pareto k is above 0.7 for any sequence.
    """
    bad, n = n_bad_pareto_k(result), len(result.pareto_k)
    text = (
        f"leave-one-sequence-out by PSIS: elpd {result.elpd_loo:.1f}, standard error "
        f"{result.se:.1f} nats, effective parameters {result.p_loo:.1f}; Pareto k is "
    )
    if not bad:
        return Finding(True, f"{text}at most {PARETO_K_LIMIT} for all {n} sequences")
    return Finding(
        False,
        f"{text}above {PARETO_K_LIMIT} for {bad} of {n} sequences, so the elpd is not reliable: use "
        "the held-out density, or gptbayes compare, which refits without these sequences",
    )
