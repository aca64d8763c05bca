"""Model evidence from sequential Monte Carlo: which stage does the text support?

The evidence of a stage is the probability that it gave to the whole text before it saw any of it.
The path from prior to posterior estimates it twice: by the mean weights of the levels, and by
thermodynamic integration, log Z = ∫ E_β[l] dβ, over the same levels. The first is unbiased on the
scale of Z, so that its log is too small by about half its variance; the second has nearly no bias
and the smaller error where particles are few. The means along the path also give WBIC and the
learning coefficient. All in nats.
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
from scipy.stats import t as student_t

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

SETTLED = 0.05
"""Level of the test of the two largest evidences."""
ALPHA = 0.01
"""Of the test that the two estimates of an evidence agree."""
TOLERANCE = 0.1
"""Nats between the two estimates that are not worth a warning."""


WHY_THEY_MAY_DISAGREE = (
    "The evidence asks how well a stage, its prior included, predicted the text one character "
    "after the other, from the first one on; LOO and held-out text ask how well its posterior "
    "predicts another piece. The evidence therefore counts what a wide prior costs: it changes "
    "with the prior scales where predictions may not. WBIC approximates it for long texts."
)


class Evidence(NamedTuple):
    """The evidence of one fit, and what else its path tells.

    Attributes
    ----------
    log_evidence, se : float
        By sequential Monte Carlo: log of the mean of Z over replicates, nats; nan for the error
        where there is one replicate.
    thermodynamic, thermodynamic_se : float
        By thermodynamic integration: mean over replicates.
    thermodynamic_discretisation : float
        Estimated error of the integral from the distances of the levels, nats, which is not in
        ``thermodynamic_se``; nan with fewer than two steps.
    n_characters : int
        That the evidence is the probability of.
    wbic, wbic_se : float
        Minus the mean log likelihood at weight 1 / log n (Watanabe 2013); nan for a target or a
        text that does not reach it.
    learning_coefficient, learning_coefficient_se : float
        The slope of the mean of minus the log likelihood in 1 / β at that weight, which is
        β² Var_β[l].
    singular_fluctuation : float
        Half the sum over sequences of the posterior variance of their log likelihood (Watanabe
        2010, with β = 1).
    replicates : Dataset (chain)
        ``smc`` and ``thermodynamic`` of each.
    findings : list of Finding
        What is shaky about these numbers, the worst first.
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
    """Fits of the same text by their evidence.

    Attributes
    ----------
    table : Dataset (fit)
        Of `compare_evidence`; with ``elpd_loo``, ``elpd_loo_se``, ``n_bad_k`` of PSIS-LOO, and
        ``held_out_elpd``, ``held_out_se``.
    counting : Dataset (model)
        Of `counting_evidence`, for the same text.
    found : dict of str to Evidence
    findings : list of Finding
    """

    table: xr.Dataset
    counting: xr.Dataset
    found: dict[str, Evidence]
    findings: list[Finding]


def compare_evidence_of_runs(
    folders: Sequence[str | Path],
) -> tuple[list[FittedRun], EvidenceComparison]:
    """Open runs by sequential Monte Carlo and compare them.

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
    with warnings.catch_warnings():  # n_bad_k says it
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
    """The evidence of two models that count characters, in closed form.

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
        ``log_evidence`` in nats of "order 0", independent characters of one distribution, and of
        "order 1", one distribution after each character: Dirichlet-multinomial both.
    """
    counts = conjugate_bigram.transition_counts(windows, vocab_size)
    values = [
        conjugate_bigram.log_evidence(each, concentration)
        for each in (counts.sum(axis=0, keepdims=True), counts)
    ]
    return xr.Dataset({"log_evidence": ("model", values)}, {"model": ["order 0", "order 1"]})


def model_evidence(idata: az.InferenceData) -> Evidence:
    """The evidence of a fit by sequential Monte Carlo.

    Parameters
    ----------
    idata : InferenceData
        Of `gptbayes.fit.smc`.

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
            f"an evidence is that of likelihood_weight 1, got {problem.likelihood_weight:g}"
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
            _agreement(smc, integrated.values),
            _discretisation(discretisation),
        ],
    )


def compare_evidence(found: Mapping[str, Evidence]) -> xr.Dataset:
    """Evidences of several fits of the same text, side by side.

    Parameters
    ----------
    found : mapping of str to Evidence
        Of fits of the same text; that they are is not checked here.

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


def evidence_findings(table: xr.Dataset, found: Mapping[str, Evidence]) -> list[Finding]:
    """What a comparison of evidences says, and what is shaky about it.

    Parameters
    ----------
    table : Dataset (fit)
        Of `compare_evidence`.
    found : mapping of str to Evidence
        Of the same fits.

    Returns
    -------
    list of Finding
        Warnings first.
    """
    warnings = [
        Finding(False, f"{name}: {finding.text}")
        for name in table["fit"].values
        for finding in found[name].findings
        if not finding.ok
    ]
    return [*warnings, *_ranking(table, found)]


_OF_LOO = {
    "elpd_loo": lambda found: float(found["elpd_loo"]),
    "elpd_loo_se": lambda found: float(found["se"]),
    "n_bad_k": lambda found: float(n_bad_pareto_k(found)),
}


def _n_sequence(run):
    return run.idata.log_likelihood.sizes["sequence"]


def _ranking(table, found):
    """Whether the two best differ, by Student's t of the one with fewer replicates."""
    if table.sizes["fit"] < 2:
        return []
    first, second = (table.isel(fit=k) for k in (0, 1))
    factor, se = -float(second["log_bayes_factor"]), float(second["log_bayes_factor_se"])
    names = [str(each["fit"].item()) for each in (first, second)]
    text = f"log Bayes factor of {names[0]} against {names[1]}: {factor:.1f}"
    if not np.isfinite(se):
        return [Finding(False, f"{text}, of unknown error")]
    text = f"{text} ± {se:.1f} nats"
    n_replicate = min(found[name].replicates.sizes["chain"] for name in names)
    if factor < student_t.isf(SETTLED / 2, n_replicate - 1) * se:
        return [Finding(False, f"{text}: which of them the text supports is not settled")]
    return [Finding(True, text)]


def _agreement(smc, integrated):
    """Whether the two estimates from the same particles agree.

    Log Z of a replicate is too small on average, by half its variance, because Z has no bias. So
    the integrals are compared with the log of the mean of Z, and with the first-order change of
    that by each replicate, which has what the two estimates have in common.
    """
    value, _ = log_evidence(smc)
    difference = integrated - value - np.expm1(smc - value)
    mean, se = _mean_and_se(difference)
    text = f"thermodynamic integration minus SMC {mean:+.2f}"
    if not np.isfinite(se):
        return Finding(True, f"{text} nats")
    text = f"{text} ± {se:.2f} nats"
    limit = float(student_t.isf(ALPHA / 2, len(difference) - 1)) * se
    if abs(mean) <= max(limit, TOLERANCE):
        return Finding(True, text)
    return Finding(
        False,
        f"{text}: the two estimates of the evidence disagree; one of them, or both, is wrong by "
        "more than its error, as with too few particles, or with levels too far apart",
    )


def _discretisation(error):
    text = f"thermodynamic integration has a discretisation error of about {error:+.2g} nats"
    if np.isfinite(error) and abs(error) <= TOLERANCE:
        return Finding(True, text)
    if not np.isfinite(error):
        return Finding(False, "too few levels to estimate the error of thermodynamic integration")
    return Finding(False, f"{text}: it needs more levels")


def _mean_and_se(values):
    """Mean over replicates and its standard error, nan for one."""
    return float(np.mean(values)), float(standard_error(values))


def _softmax_se(probability, se):
    derivative = probability[:, None] * (np.eye(len(probability)) - probability)
    return np.sqrt((derivative**2 * se**2).sum(axis=1))
