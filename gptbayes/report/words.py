"""How the report says numbers and names."""

from __future__ import annotations

from collections.abc import Mapping

import arviz as az
import numpy as np

from gptbayes.diagnostics import Finding

METHOD_NAMES = {
    "nuts": "NUTS",
    "pathfinder": "Pathfinder",
    "optimize": "posterior mode",
    "prior": "prior draws",
}


def percent(share: float) -> str:
    """A share as per cent."""
    return f"{100 * share:.0f} %"


def plus_minus(value: float, error: float) -> str:
    """A signed value with its standard error."""
    return f"{float(value):+.1f} ± {float(error):.1f}"


def interval(one: Mapping[str, float], *, digits: int = 2, sign: str = "+") -> str:
    """A mean with its interval; a single draw has none."""
    mean, lower, upper = (float(one[name]) for name in ("mean", "lower", "upper"))
    shown = f"{mean:{sign}.{digits}f}"
    if np.isnan(lower):
        return shown
    return f"{shown} ({lower:{sign}.{digits}f} to {upper:{sign}.{digits}f})"


def with_error(value: float, error: float) -> str:
    """A probability with its Monte Carlo error; that of a single draw has none."""
    shown = f"{float(value):.2f}"
    return shown if np.isnan(error) else f"{shown} ± {float(error):.2f}"


def spread(n: int, count: int) -> np.ndarray:
    """Indices of ``count`` items spread over ``n``."""
    return np.unique(np.linspace(0, n - 1, min(n, count)).round().astype(int))


def first_said(idata: az.InferenceData, findings: list[Finding]) -> list[Finding]:
    """The warnings of a fit, or the one sentence that there are none."""
    warnings = [finding for finding in findings if not finding.ok]
    target = idata.attrs["target"]
    if target != "posterior":
        read = ", and where this page says posterior, read prior" if target == "prior" else ""
        warnings.insert(0, Finding(False, f"the target is not the posterior: {target}{read}"))
    if warnings:
        return warnings
    return [Finding(True, "no diagnostic of these draws is out of its limits")]
