"""How the report says numbers and names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import arviz as az
import numpy as np
import xarray as xr

from gptbayes.findings import Finding, convergence_finding

METHOD_NAMES = {
    "nuts": "NUTS",
    "pathfinder": "Pathfinder",
    "optimize": "posterior mode",
    "prior": "prior draws",
    "smc": "sequential Monte Carlo",
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


def mixing(what: str, summary: xr.Dataset) -> Finding:
    """How far what is summarised can be relied on, by the worst of it."""
    return convergence_finding(
        what, r_hat=float(summary["r_hat"].max()), ess_bulk=float(summary["ess_bulk"].min())
    )


def named_heads(sizes: Mapping[str, int]) -> Iterator[tuple[int, int, str]]:
    """Layer, head and name of each."""
    for layer, head in np.ndindex(sizes["layer"], sizes["head"]):
        name = f"head {head + 1}" + (f", layer {layer + 1}" if sizes["layer"] > 1 else "")
        yield layer, head, name


def costs(one: xr.Dataset) -> tuple[str, str, str]:
    """What a removal costs: posterior, prior, and the probability that it costs anything."""
    ours = one.sel(source="posterior")
    sides = (interval(one.sel(source=source), digits=3) for source in ("posterior", "prior"))
    return *sides, with_error(ours["prob_positive"], ours["prob_positive_mcse"])


def evenly_spaced(n: int, count: int) -> np.ndarray:
    """Indices of ``count`` items spread over ``n``."""
    return np.unique(np.linspace(0, n - 1, min(n, count)).round().astype(int))


def headline(idata: az.InferenceData, findings: list[Finding]) -> list[Finding]:
    """The warnings of a fit, or the one sentence that there are none."""
    warnings = [finding for finding in findings if not finding.ok]
    target = idata.attrs["target"]
    if target != "posterior":
        read = ", and where this page says posterior, read prior" if target == "prior" else ""
        warnings.insert(0, Finding(False, f"the target is not the posterior: {target}{read}"))
    if warnings:
        return warnings
    return [Finding(True, "no diagnostic of these draws is out of its limits")]
