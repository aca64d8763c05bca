"""Predictive accuracy on held-out text: quantities of an `Analysis`."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import arviz as az
import numpy as np
import xarray as xr

from gptbayes import predict
from gptbayes.findings import Finding, few_sequences_finding

if TYPE_CHECKING:
    from gptbayes.report.analysis.analysis import Analysis


class WeightedFit(NamedTuple):
    """A fit whose draws are weighted, as a row of the held-out comparison.

    Attributes
    ----------
    name : str
    weights : DataArray (chain, draw)
    warning : str or None
        Why the weights are unreliable.
    """

    name: str
    weights: xr.DataArray
    warning: str | None


class HeldOut(NamedTuple):
    """Held-out predictive density of a fit, its weighted draws and the fits beside it.

    Attributes
    ----------
    table : Dataset (fit)
        As of `gptbayes.predict.compare_held_out`.
    unigram, unigram_se : float
        Log density of smoothed character frequencies, nats per character, and its standard error.
    uniform : float
        Log density of a uniform guess, nats per character.
    findings : list of Finding
        Warnings about weights and about the number of sequences.
    """

    table: xr.Dataset
    unigram: float
    unigram_se: float
    uniform: float
    findings: list[Finding]


def weighted(analysis: Analysis) -> WeightedFit | None:
    """The same draws weighted: by importance for Pathfinder, by stacking for NUTS."""
    if analysis.method == "pathfinder":
        try:
            weights = predict.psis_weights(analysis.idata)
        except ValueError:  # ratios that are not finite, which `findings` reports
            return None
        name = f"{analysis.name}, importance weighted"
    elif analysis.stacking is not None:
        per_chain = analysis.stacking.chains["weight"].values
        weights = predict.chain_weights(analysis.idata, per_chain)
        name = f"{analysis.name}, chains stacked"
    else:
        return None
    return WeightedFit(name, weights, predict.weights_warning(weights))


def held_out(analysis: Analysis) -> HeldOut:
    """Held-out predictive density of this fit and of those beside it."""
    fits: dict[str, az.InferenceData] = {}
    weights, log_density, findings = {}, {}, []
    for each in (analysis, *analysis.beside):
        density = each.held_out_log_prob.sum("position")
        fits[each.name], log_density[each.name] = each.idata, density
        other = each.weighted
        if other is not None:
            fits[other.name], log_density[other.name] = each.idata, density
            weights[other.name] = other.weights
            if other.warning:
                findings.append(Finding(False, f"{other.name}: {other.warning}"))
    table = predict.compare_held_out(fits, weights, log_density=log_density).table
    few = few_sequences_finding(table.attrs["n_sequence"])
    return HeldOut(
        table,
        *predict.unigram_log_density(analysis.idata),
        uniform=-float(np.log(analysis.problem.design.vocab_size)),
        findings=[*findings, few] if few else findings,
    )


def calibration(analysis: Analysis) -> predict.Reliability:
    """Calibration of next-character probabilities on held-out text."""
    fits = {each.name: each.idata for each in (analysis, *analysis.beside)}
    return predict.held_out_reliability(fits, analysis.rng(3), prob=analysis.prob)
