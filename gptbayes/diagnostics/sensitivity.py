"""Does the prior matter? What becomes of conclusions when prior or likelihood count for more.

Power-scaling (Kallioinen et al. 2024) raises prior or likelihood to a power near 1. The change of
a posterior mean with the logarithm of that power is a covariance over draws, so that nothing is
fitted again and the answer has a Monte Carlo standard error.
"""

from __future__ import annotations

from collections.abc import Mapping

import arviz as az
import numpy as np
import xarray as xr

from gptbayes.attention import attention_at_distance, attention_draws
from gptbayes.inference import parameters_of, problem_of
from gptbayes.model.simulate import log_prior
from gptbayes.predict import held_out_log_prob
from gptbayes.stats.summary import summarise

PSENS_LIMIT = 0.05  # Kallioinen et al. 2024, section 2.4
DELTA = 0.01
"""Relative change of the power that importance weights are made for."""
N_PLACES = 3


def prior_sensitivity(
    idata: az.InferenceData, quantities: Mapping[str, xr.DataArray] | None = None
) -> xr.Dataset:
    """How much posterior summaries depend on prior and likelihood.

    Parameters
    ----------
    idata : InferenceData
        With several draws.
    quantities : mapping of str to DataArray (chain, draw), optional
        By default `key_quantities`.

    Returns
    -------
    Dataset (component, quantity)
        For the components "prior" and "likelihood": ``shift``, the change of the posterior mean,
        in posterior standard deviations, when the component's power doubles, to first order
        (ln 2 times the covariance with the component's log density), with its Monte Carlo
        standard error ``mcse``; ``psense``, ArviZ's diagnostic of the same, from importance
        weights, which looks at the whole distribution, has no error of its own and, in hundreds
        of dimensions, a floor of noise; ``pareto_k`` (component) of those weights. Also the
        ``mean`` and ``sd`` of each quantity.

    Raises
    ------
    ValueError
        If there are fewer than 4 draws in a chain.
    """
    if idata.posterior.sizes["draw"] < 4:
        n_draw = idata.posterior.sizes["draw"]
        raise ValueError(f"power_scaling needs at least 4 draws, got {n_draw}")
    values = xr.Dataset(dict(quantities or key_quantities(idata)))
    components = {
        "prior": _log_prior(idata),
        "likelihood": idata.log_likelihood["log_lik"].sum(("sequence", "position")),
    }
    names = xr.DataArray(list(components), dims="component", name="component")
    rows = [_scaled(values, name, log_density) for name, log_density in components.items()]
    stacked = values.to_dataarray("quantity")
    over = ("chain", "draw")
    summary = xr.Dataset({"mean": stacked.mean(over), "sd": stacked.std(over)})
    return xr.concat(rows, names).merge(summary)


def key_quantities(idata: az.InferenceData) -> dict[str, xr.DataArray]:
    """What a reader of a fit concludes from it, each ``(chain, draw)``.

    Returns
    -------
    dict of str to DataArray
        Log probability per character of training and held-out text in nats; probability of the
        character that did come at three held-out places; and, where there is attention, how much
        more a position looks at itself and at the one before than a uniform look would, averaged
        over heads, layers and held-out contexts.
    """
    problem = problem_of(idata)
    held_out = held_out_log_prob(idata)
    n = held_out.sizes["held_out_sequence"]
    found = {
        "training log probability per character": idata.log_likelihood["log_lik"].mean(
            ("sequence", "position")
        ),
        "held-out log probability per character": held_out.mean(("held_out_sequence", "position")),
    }
    for i in np.unique(np.linspace(0, n - 1, min(n, N_PLACES)).round().astype(int)):
        context = problem.vocabulary.decode(problem.held_out.x[i])
        character = problem.vocabulary.decode(problem.held_out.y[i, -1:])
        p = np.exp(held_out.isel(held_out_sequence=i, position=-1, drop=True))
        found[f"probability of “{character}” after “{context}”"] = p
    if "attention" in problem.stage.features:
        contexts = problem.held_out.x[:8]
        each = [attention_draws(idata, one[None]).mean(("layer", "head")) for one in contexts]
        weights = xr.concat(each, "sequence")  # never those of all heads at once
        for distance, name in enumerate(("itself", "the previous character")):
            looked = attention_at_distance(weights, distance).mean("sequence")
            found[f"attention to {name}, beyond uniform"] = looked
    return found


def _log_prior(idata):
    density = log_prior(problem_of(idata), parameters_of(idata))
    coords = {name: idata.posterior[name] for name in ("chain", "draw")}
    return xr.DataArray(density, dims=("chain", "draw"), coords=coords, name="log_prior")


def _scaled(values, component, log_density):
    over = ("chain", "draw")
    stacked = values.to_dataarray("quantity")
    z = (stacked - stacked.mean(over)) / stacked.std(over)
    moved = summarise(np.log(2) * z * (log_density - log_density.mean(over)))
    group = {"prior": "log_prior", "likelihood": "log_likelihood"}[component]
    scaled = az.InferenceData(
        posterior=values, **{group: log_density.to_dataset(name="log_density")}
    )
    psense = az.psens(scaled, component=component, delta=DELTA).to_dataarray("quantity")
    ratios = DELTA * log_density.stack(sample=over).values
    k = max(float(az.psislw(sign * ratios)[1]) for sign in (1, -1))
    return xr.Dataset(
        {
            "shift": moved["mean"],
            "mcse": moved["mcse_mean"],
            "psense": psense,
            "pareto_k": k,
        }
    )
