"""Leave-one-sequence-out cross-validation."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import arviz as az
import xarray as xr

from gptbayes.findings import PARETO_K_LIMIT, Finding
from gptbayes.stats.summary import ess


def loo(idata: az.InferenceData) -> az.ELPDData:
    """Compute PSIS-LOO in which the unit left out is a sequence (Vehtari et al. 2017, 2024).

    Parameters
    ----------
    idata : InferenceData
        With the group ``log_likelihood``.

    Returns
    -------
    arviz.ELPDData
        Pointwise, with the dim ``sequence``. If ``pareto_k`` is above 0.7, the estimate for that
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
    >>> loo(idata).pareto_k.sizes
    Frozen({'sequence': 11})
    """
    per_sequence = idata.log_likelihood["log_lik"].sum("position")
    groups = {"posterior": idata.posterior, "sample_stats": idata.sample_stats}
    reduced = az.InferenceData(**groups, log_likelihood=per_sequence.to_dataset(name="log_lik"))
    # The relative efficiency is that of log densities. That of weights, ArviZ's default, depends
    # on symmetries which do not change predictions.
    effective = float(ess(per_sequence)["ess_bulk"].mean()) if per_sequence.sizes["draw"] > 3 else 1
    n_draws = per_sequence.sizes["chain"] * per_sequence.sizes["draw"]
    with warnings.catch_warnings():  # n_bad_pareto_k reports it
        warnings.simplefilter("ignore", UserWarning)
        return az.loo(reduced, pointwise=True, reff=min(1.0, effective / n_draws))


def compare_loo(elpds: Mapping[str, az.ELPDData]) -> xr.Dataset:
    """Compute differences of elpd with paired standard errors, and stacking weights.

    Parameters
    ----------
    elpds : mapping of str to arviz.ELPDData
        At least two, pointwise and for the same sequences, as of `loo`.

    Returns
    -------
    Dataset (fit)
        By decreasing elpd: ``difference`` from the best fit in nats (0 or less), its standard
        error ``difference_se``, and the stacking ``weight`` (Yao et al. 2018). Stacking weights
        are those of a mixture of predictive distributions. They are not model probabilities.

    See Also
    --------
    arviz.compare : Does the computation.
    """
    terms = {name: each["loo_i"] for name, each in elpds.items()}
    best = xr.concat(list(terms.values()), "fit").max("fit")
    shifted = {}
    for name, each in elpds.items():
        shifted[name] = each.copy()
        # ArviZ exponentiates the terms, which underflows for long sequences. Subtracting the same
        # number from the terms of all fits changes neither differences nor weights.
        shifted[name]["loo_i"] = terms[name] - best
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # loo_finding reports large Pareto k
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
    """Return the number of sequences with a Pareto k above 0.7."""
    return int((result.pareto_k > PARETO_K_LIMIT).sum())


def loo_finding(result: az.ELPDData) -> Finding:
    """State the elpd and whether it is reliable.

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
        f"{text}above {PARETO_K_LIMIT} for {bad} of {n} sequences: the elpd is not reliable. "
        "Use the held-out density, or gptbayes compare, which refits without these sequences",
    )
