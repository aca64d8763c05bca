"""Model evidence from sequential Monte Carlo: which stage does the text support?

The evidence of a stage, Z, is the prior predictive probability of the whole text. The path from
prior to posterior gives two estimates of it: the product of the mean weights of the levels, and
thermodynamic integration over the same levels, log Z = ∫ E_β[l] dβ. The first estimate of Z is
unbiased, so that its log is too small by about half its variance. The second has almost no bias,
and a smaller error if there are few particles. The same path gives WBIC and the learning
coefficient. All quantities are in nats.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import arviz as az
import numpy as np
import xarray as xr
from scipy.special import logsumexp

from gptbayes.compare.evidence_findings import (
    agreement_finding,
    discretisation_finding,
    evidence_findings,
)
from gptbayes.compare.refit_plan import FittedRun
from gptbayes.compare.same_text import open_same_text
from gptbayes.compare.thermodynamic import (
    discretisation_error,
    thermodynamic_integration,
    wbic_of_path,
)
from gptbayes.corpus import Windows
from gptbayes.diagnostics.sampler import log_lik_finding
from gptbayes.diagnostics.tempering_health import last_level, path_findings, path_of
from gptbayes.findings import Finding
from gptbayes.fit.tempering import log_evidence
from gptbayes.inference import problem_of
from gptbayes.predict import compare_held_out, loo, n_bad_pareto_k
from gptbayes.stats.standard_error import standard_error
from gptbayes.validate import conjugate_bigram

WHY_THEY_MAY_DISAGREE = (
    "The evidence is the probability of the whole text, each character predicted from those before "
    "it, starting from the prior; LOO and held-out text assess predictions from the posterior. The "
    "evidence therefore depends on the prior scales, and a wide prior lowers it, even where the "
    "posterior predictions hardly change. WBIC approximates minus its log for long texts."
)


class Evidence(NamedTuple):
    """The evidence of one fit, and other quantities from its path.

    Attributes
    ----------
    log_evidence, se : float
        By sequential Monte Carlo: the log of the mean of Z over replicates, in nats, and its
        standard error, nan for one replicate.
    thermodynamic, thermodynamic_se : float
        By thermodynamic integration: the mean over replicates, and its standard error.
    thermodynamic_discretisation : float
        Estimated error of the integral due to the finite number of levels, in nats, which
        ``thermodynamic_se`` does not include; nan with fewer than two steps.
    n_characters : int
        Number of characters whose probability the evidence is.
    wbic, wbic_se : float
        Minus the mean log likelihood at likelihood weight 1 / log n (Watanabe 2013); nan for fewer
        than 3 characters.
    learning_coefficient, learning_coefficient_se : float
        The derivative of minus the mean log likelihood with respect to 1 / β at that weight, which
        is β² Var_β[l].
    singular_fluctuation : float
        Half the sum over sequences of the posterior variance of their log likelihood (Watanabe
        2010, with β = 1).
    replicates : Dataset (chain)
        The two estimates of each replicate, ``smc`` and ``thermodynamic``.
    findings : list of Finding
        How reliable these numbers are, the most serious first.
    """

    log_evidence: float
    se: float
    thermodynamic: float
    thermodynamic_se: float
    thermodynamic_discretisation: float
    n_characters: int
    wbic: float
    wbic_se: float
    learning_coefficient: float
    learning_coefficient_se: float
    singular_fluctuation: float
    replicates: xr.Dataset
    findings: list[Finding]


class EvidenceComparison(NamedTuple):
    """A comparison of fits of the same text by their evidence.

    Attributes
    ----------
    table : Dataset (fit)
        As of `compare_evidence`, with ``elpd_loo``, ``elpd_loo_se`` and ``n_bad_k`` of PSIS-LOO,
        and ``held_out_elpd`` and ``held_out_se``.
    counting : Dataset (model)
        As of `counting_evidence`, for the same text.
    found : dict of str to Evidence
        The evidence of each fit.
    findings : list of Finding
        As of `evidence_findings`.
    """

    table: xr.Dataset
    counting: xr.Dataset
    found: dict[str, Evidence]
    findings: list[Finding]


def compare_evidence_of_runs(
    folders: Sequence[str | Path],
) -> tuple[list[FittedRun], EvidenceComparison]:
    """Open fits by sequential Monte Carlo and compare their evidence.

    Parameters
    ----------
    folders : sequence of path
        Run directories of fits of the same text.

    Returns
    -------
    list of FittedRun
    EvidenceComparison

    Raises
    ------
    ValueError
        If a run is of another method or of a power posterior, or texts differ.
    """
    fits = open_same_text(folders, "evidence")
    found = {run.name: model_evidence(run.idata) for run in fits}
    table = compare_evidence(found)
    held_out = compare_held_out({run.name: run.idata for run in fits}).table
    with warnings.catch_warnings():  # the column n_bad_k has the same information
        warnings.simplefilter("ignore", UserWarning)
        loos = {run.name: loo(run.idata) for run in fits if _n_sequence(run) > 1}
    of_loo: dict[str, Any] = {
        name: ("fit", [of(loos[fit]) if fit in loos else np.nan for fit in table["fit"].values])
        for name, of in _OF_LOO.items()
    }
    table = table.assign(
        **of_loo,
        held_out_elpd=held_out["elpd"].sel(fit=table["fit"]),
        held_out_se=held_out["se"].sel(fit=table["fit"]),
    )
    problem = problem_of(fits[0].idata)
    counting = counting_evidence(problem.training, problem.design.vocab_size)
    said = evidence_findings(table, found)
    return fits, EvidenceComparison(table, counting, found, said)


def counting_evidence(windows: Windows, vocab_size: int, concentration: float = 1.0) -> xr.Dataset:
    """Compute the evidence of two Dirichlet-multinomial models of characters in closed form.

    Parameters
    ----------
    windows : Windows
        0-based tokens, ``(sequence, position)``.
    vocab_size : int
    concentration : float
        Of the symmetric Dirichlet prior of each distribution.

    Returns
    -------
    Dataset (model)
        ``log_evidence`` in nats of "order 0", independent and identically distributed characters,
        and of "order 1", one distribution of the next character after each character.
    """
    counts = conjugate_bigram.transition_counts(windows, vocab_size)
    values = [
        conjugate_bigram.log_evidence(each, concentration)
        for each in (counts.sum(axis=0, keepdims=True), counts)
    ]
    return xr.Dataset({"log_evidence": ("model", values)}, {"model": ["order 0", "order 1"]})


def model_evidence(idata: az.InferenceData) -> Evidence:
    """Estimate the evidence of a fit by sequential Monte Carlo.

    Parameters
    ----------
    idata : InferenceData
        From `gptbayes.fit.smc`.

    Returns
    -------
    Evidence

    Raises
    ------
    ValueError
        If the fit is of another method, or of a power posterior.

    See Also
    --------
    compare_evidence, scale_sensitivity
    """
    path, problem = path_of(idata), problem_of(idata)
    if problem.likelihood_weight != 1:
        raise ValueError(
            f"evidence needs a fit with likelihood_weight 1, got {problem.likelihood_weight:g}"
        )
    smc = last_level(path["log_evidence"])
    integrated = thermodynamic_integration(path)
    value, se = log_evidence(smc)
    mean, mean_se = _mean_and_se(integrated.values)
    discretisation = float(discretisation_error(path).mean())
    wbic, coefficient = wbic_of_path(path, problem.n_targets)
    of_sequence = idata.log_likelihood["log_lik"].sum("position", skipna=False)
    return Evidence(
        log_evidence=value,
        se=se,
        thermodynamic=mean,
        thermodynamic_se=mean_se,
        thermodynamic_discretisation=discretisation,
        n_characters=problem.n_targets,
        wbic=_mean_and_se(wbic)[0],
        wbic_se=_mean_and_se(wbic)[1],
        learning_coefficient=_mean_and_se(coefficient)[0],
        learning_coefficient_se=_mean_and_se(coefficient)[1],
        singular_fluctuation=float(of_sequence.var(("chain", "draw")).sum()) / 2,
        replicates=xr.Dataset({"smc": ("chain", smc), "thermodynamic": integrated}),
        findings=[
            *filter(None, [log_lik_finding(idata)]),
            *path_findings(idata),
            agreement_finding(smc, integrated.values),
            discretisation_finding(discretisation),
        ],
    )


def compare_evidence(found: Mapping[str, Evidence]) -> xr.Dataset:
    """Compare the evidence of several fits of the same text.

    Parameters
    ----------
    found : mapping of str to Evidence
        The texts must be the same, which is not checked.

    Returns
    -------
    Dataset (fit)
        Largest evidence first: ``log_evidence`` with ``se``, ``thermodynamic`` with
        ``thermodynamic_se`` and ``thermodynamic_discretisation``, ``per_character``;
        ``log_bayes_factor`` against the first with ``log_bayes_factor_se``; ``probability`` of the
        fit among these under equal prior probabilities, with ``probability_se`` by the delta
        method; ``wbic``, ``wbic_se``, ``learning_coefficient``, ``learning_coefficient_se``,
        ``singular_fluctuation``.

    Raises
    ------
    ValueError
        If there is nothing to compare.
    """
    if not found:
        raise ValueError("compare_evidence needs at least one evidence, got none")
    names = sorted(found, key=lambda name: -found[name].log_evidence)
    table = xr.Dataset(
        {
            key: ("fit", [float(getattr(found[name], key)) for name in names])
            for key in Evidence._fields
            if key not in ("replicates", "findings")
        },
        {"fit": names},
    )
    log_z, se = table["log_evidence"].values, table["se"].values
    probability = np.exp(log_z - logsumexp(log_z))
    return table.assign(
        per_character=table["log_evidence"] / table["n_characters"],
        log_bayes_factor=("fit", log_z - log_z[0]),
        log_bayes_factor_se=("fit", np.where(np.arange(len(se)) > 0, np.hypot(se, se[0]), 0.0)),
        probability=("fit", probability),
        probability_se=("fit", _softmax_se(probability, se)),
    )


_OF_LOO = {
    "elpd_loo": lambda found: float(found["elpd_loo"]),
    "elpd_loo_se": lambda found: float(found["se"]),
    "n_bad_k": lambda found: float(n_bad_pareto_k(found)),
}


def _n_sequence(run):
    return run.idata.log_likelihood.sizes["sequence"]


def _mean_and_se(values):
    """Mean over replicates and its standard error, nan for one."""
    return float(np.mean(values)), float(standard_error(values))


def _softmax_se(probability, se):
    derivative = probability[:, None] * (np.eye(len(probability)) - probability)
    return np.sqrt((derivative**2 * se**2).sum(axis=1))
