"""A summary of one fit by sequential Monte Carlo: its path, its evidence and its modes."""

from __future__ import annotations

from typing import NamedTuple

import arviz as az
import numpy as np
import xarray as xr

from gptbayes.compare.evidence import Evidence, counting_evidence, model_evidence
from gptbayes.compare.evidence_sensitivity import scale_sensitivity
from gptbayes.diagnostics.mode_masses import ModeMasses, mode_masses
from gptbayes.diagnostics.tempering_health import last_level, path_findings, path_of
from gptbayes.findings import Finding
from gptbayes.inference import problem_of

WRONG_IF = (
    "These numbers would be wrong if replicates differed by more than their errors, if "
    "thermodynamic integration disagreed with the mean weights, if R-hat between replicates were "
    "large, or if scalars with known marginals missed them. None of these checks detects a mode in "
    "which no replicate has a particle: a narrow one, separated from the others already at small "
    "likelihood weights."
)


class TemperingSummary(NamedTuple):
    """A summary of one fit by sequential Monte Carlo.

    Attributes
    ----------
    path : Dataset (chain, level)
        As `gptbayes.inference.smc_path` returns it.
    replicates : Dataset (chain)
        ``n_levels``; ``log_evidence``; ``n_ancestors``, the number of particles of the first level
        with descendants at the last; ``smallest_acceptance``, ``largest_between_share`` and
        ``smallest_ess`` over its levels; ``seconds``, and ``stan_share``, the share of these spent
        in CmdStan.
    evidence : gptbayes.compare.evidence.Evidence or None
        None for a power posterior.
    counting : Dataset (model)
        As `gptbayes.compare.evidence.counting_evidence`, for the same text.
    sensitivity : Dataset (family, factor)
        As `gptbayes.compare.evidence_sensitivity.scale_sensitivity`.
    masses : gptbayes.diagnostics.mode_masses.ModeMasses
    findings : list of Finding
        On the path, the evidence and the modes, in this order.
    wrong_if : str
        Observations that would refute these numbers.
    """

    path: xr.Dataset
    replicates: xr.Dataset
    evidence: Evidence | None
    counting: xr.Dataset
    sensitivity: xr.Dataset
    masses: ModeMasses
    findings: list[Finding]
    wrong_if: str


def summarise_tempering(idata: az.InferenceData) -> TemperingSummary:
    """Summarise a fit by sequential Monte Carlo.

    Parameters
    ----------
    idata : InferenceData
        Of `gptbayes.fit.smc`.

    Returns
    -------
    TemperingSummary

    Raises
    ------
    ValueError
        If the fit is of another method.
    """
    path, problem = path_of(idata), problem_of(idata)
    found = model_evidence(idata) if problem.likelihood_weight == 1 else None
    masses = mode_masses(idata)
    of_path = found.findings if found else path_findings(idata)
    return TemperingSummary(
        path=path,
        replicates=_replicates(path),
        evidence=found,
        counting=counting_evidence(problem.training, problem.design.vocab_size),
        sensitivity=scale_sensitivity(idata),
        masses=masses,
        findings=[*of_path, *masses.findings],
        wrong_if=WRONG_IF,
    )


def _replicates(path):
    moved = path.isel(level=slice(1, None))
    seconds = path["seconds"].sum("level")
    return xr.Dataset(
        {
            "n_levels": path["likelihood_weight"].notnull().sum("level") - 1,
            "log_evidence": ("chain", last_level(path["log_evidence"])),
            "n_ancestors": ("chain", last_level(path["n_ancestors"]).astype(np.int64)),
            "smallest_acceptance": moved["acceptance_rate"].min("level"),
            "largest_between_share": moved["between_share"].max("level"),
            "smallest_ess": moved["ess"].min("level"),
            "seconds": seconds,
            "stan_share": path["stan_seconds"].sum("level") / seconds,
        }
    )
