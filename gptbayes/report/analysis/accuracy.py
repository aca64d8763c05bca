"""Predictive accuracy on held-out text: quantities of an `Analysis`."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import arviz as az
import numpy as np
import xarray as xr

from gptbayes import predict
from gptbayes.findings import Finding, few_sequences_finding
from gptbayes.inference import ensemble_of
from gptbayes.report.analysis.methods import METHOD_NAMES

if TYPE_CHECKING:
    from gptbayes.report.analysis.analysis import Analysis

ORDERS = (0, 1, 2)
"""Orders of the Dirichlet-multinomial baselines, as far as the context is long enough."""


class Predictor(NamedTuple):
    """A way to predict held-out text, a row of the held-out comparison.

    Attributes
    ----------
    name : str
    idata : InferenceData
    log_density : DataArray (chain, draw, held_out_sequence)
    weights : DataArray (chain, draw), optional
        Equal by default.
    warning : str, optional
        Why the weights are unreliable.
    """

    name: str
    idata: az.InferenceData
    log_density: xr.DataArray
    weights: xr.DataArray | None = None
    warning: str | None = None


class HeldOut(NamedTuple):
    """Held-out predictive density of a fit, its weighted draws, the fits beside it and baselines.

    Attributes
    ----------
    table : Dataset (fit)
        As of `gptbayes.predict.compare_held_out`.
    baselines : tuple of str
        The rows of the Dirichlet-multinomial baselines, order 0 first.
    uniform : float
        Log density of a uniform guess, nats per character.
    findings : list of Finding
        Warnings about weights and about the number of sequences.
    """

    table: xr.Dataset
    baselines: tuple[str, ...]
    uniform: float
    findings: list[Finding]


def own_predictors(analysis: Analysis) -> tuple[Predictor, ...]:
    """The draws of this fit with equal weights, and with each weighting that there is.

    Pathfinder's draws are weighted by importance and by stacking of paths, those of chains by
    stacking of chains. The modes of all starts of an optimizer are an ensemble.
    """
    idata, name = analysis.idata, analysis.name
    density = analysis.held_out_log_prob.sum("position")
    found = [Predictor(name, idata, density)]
    if analysis.method == "pathfinder":
        found += _of_pathfinder(name, idata, density)
    elif analysis.stacking is not None:
        chains = analysis.stacking.chains
        weights = predict.chain_weights(idata, chains["weight"].values)
        warning = predict.weights_warning(weights) or _k_warning(
            int(chains["n_bad_k"].sum()), chains.sizes["chain"] * len(analysis.problem.training.x)
        )
        found.append(Predictor(f"{name}, chains stacked", idata, density, weights, warning))
    ensemble = ensemble_of(idata)
    if ensemble is not None:
        n = ensemble.posterior.sizes["draw"]
        density = predict.held_out_log_prob(ensemble).sum("position")
        found.append(Predictor(_ensemble_name(name, n), ensemble, density))
    return tuple(found)


def _ensemble_name(name, n):
    """The ensemble of a fit that is called by its method, or otherwise."""
    ensemble, mode = f"deep ensemble of {n} modes", METHOD_NAMES["optimize"]
    return name.replace(mode, ensemble, 1) if name.startswith(mode) else f"{name}, {ensemble}"


def _of_pathfinder(name, idata, density):
    try:
        weights, stacked = predict.psis_weights(idata), predict.path_weights(idata)
    except ValueError:  # ratios that are not finite, which `findings` reports
        return []
    unreliable = _k_warning(stacked.attrs["n_bad_k"], stacked.attrs["n_k"])
    warning = predict.weights_warning(weights)
    return [
        Predictor(f"{name}, importance weighted", idata, density, weights, warning),
        Predictor(f"{name}, paths stacked", idata, density, stacked, unreliable),
    ]


def _k_warning(n_bad, n):
    if not n_bad:
        return None
    return (
        f"Pareto k above its limit for {n_bad} of {n} leave-one-out densities: the stacking "
        "weights are not reliable"
    )


def predictors(analysis: Analysis) -> tuple[Predictor, ...]:
    """Those of this fit and of the fits beside it."""
    return tuple(each for fit in (analysis, *analysis.beside) for each in fit.own_predictors)


def baselines(analysis: Analysis) -> dict[str, predict.Forecast]:
    """Dirichlet-multinomial forecasts of the held-out text, by name."""
    n_position = analysis.problem.held_out.x.shape[1]
    return {
        f"Dirichlet-multinomial of order {order}": predict.dirichlet_multinomial(
            analysis.problem, order
        )
        for order in ORDERS
        if order <= n_position
    }


def held_out(analysis: Analysis) -> HeldOut:
    """Held-out predictive density of this fit, of those beside it and of baselines."""
    found = analysis.predictors
    table = predict.compare_held_out(
        {each.name: each.idata for each in found},
        {each.name: each.weights for each in found if each.weights is not None},
        log_density={each.name: each.log_density for each in found},
        forecasts={name: each.log_density for name, each in analysis.baselines.items()},
    ).table
    few = few_sequences_finding(table.attrs["n_sequence"])
    findings = [Finding(False, f"{each.name}: {each.warning}") for each in found if each.warning]
    return HeldOut(
        table,
        tuple(analysis.baselines),
        uniform=-float(np.log(analysis.problem.design.vocab_size)),
        findings=[*findings, few] if few else findings,
    )


def calibration(analysis: Analysis) -> predict.Reliability:
    """Calibration of next-character probabilities on held-out text, of all predictors."""
    found = analysis.predictors
    analysis.on_step("calibration on held-out text")
    return predict.held_out_reliability(
        {each.name: each.idata for each in found},
        analysis.rng(3),
        {each.name: each.weights for each in found if each.weights is not None},
        forecasts={name: each.probability for name, each in analysis.baselines.items()},
        prob=analysis.prob,
    )
