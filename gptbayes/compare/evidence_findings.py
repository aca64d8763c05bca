"""How reliable estimates of the evidence are, and which stage the text supports."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr
from scipy.stats import t as student_t

from gptbayes.findings import Finding
from gptbayes.fit.tempering import log_evidence
from gptbayes.stats.standard_error import standard_error

if TYPE_CHECKING:
    from gptbayes.compare.evidence import Evidence

SETTLED = 0.05
"""Significance level of the test that the two largest evidences are equal."""
ALPHA = 0.01
"""Significance level of the test that the two estimates of an evidence agree."""
TOLERANCE = 0.1
"""Difference of the two estimates, in nats, below which there is no warning."""


def evidence_findings(table: xr.Dataset, found: Mapping[str, Evidence]) -> list[Finding]:
    """State the result of a comparison, and how reliable it is.

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


def agreement_finding(smc: np.ndarray, integrated: np.ndarray) -> Finding:
    """State whether the two estimates of the evidence from the same particles agree.

    Log Z of a replicate is too small on average, by half its variance, because Z has no bias. So
    the integrals are compared with the log of the mean of Z, and with the first-order change of
    that by each replicate, which has what the two estimates have in common.

    Parameters
    ----------
    smc, integrated : ndarray, (replicate,)
        Log evidence by the mean weights and by thermodynamic integration, in nats.

    Returns
    -------
    Finding
        A warning if they differ significantly and by more than 0.1 nats.
    """
    value, _ = log_evidence(smc)
    difference = integrated - value - np.expm1(smc - value)
    mean, se = float(difference.mean()), float(standard_error(difference))
    text = f"thermodynamic integration minus SMC {mean:+.2f}"
    if not np.isfinite(se):
        return Finding(True, f"{text} nats")
    text = f"{text} ± {se:.2f} nats"
    limit = float(student_t.isf(ALPHA / 2, len(difference) - 1)) * se
    if abs(mean) <= max(limit, TOLERANCE):
        return Finding(True, text)
    return Finding(
        False,
        f"{text}: the two estimates of the evidence disagree by more than their errors, as happens "
        "with too few particles or with levels too far apart",
    )


def discretisation_finding(error: float) -> Finding:
    """State the error of thermodynamic integration due to the finite number of levels.

    Parameters
    ----------
    error : float
        In nats; nan if there are too few levels to estimate it.

    Returns
    -------
    Finding
        A warning if it is unknown or larger than 0.1 nats.
    """
    text = f"thermodynamic integration has a discretisation error of about {error:+.2g} nats"
    if np.isfinite(error) and abs(error) <= TOLERANCE:
        return Finding(True, text)
    if not np.isfinite(error):
        return Finding(False, "too few levels to estimate the error of thermodynamic integration")
    return Finding(False, f"{text}: it needs more levels")


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
