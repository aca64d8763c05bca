"""Prior and likelihood sensitivity by power-scaling (Kallioinen et al. 2024).

Power-scaling raises the prior or the likelihood to a power near 1. The derivative of a posterior
mean with respect to the logarithm of that power is a covariance over draws. It is estimated without
another fit and has a Monte Carlo standard error.
"""

from __future__ import annotations

from collections.abc import Mapping

import arviz as az
import numpy as np
import xarray as xr

from gptbayes.attention import attention_at_distance, attention_draws
from gptbayes.groups import pareto_smoothed, power_scaling
from gptbayes.inference import parameters_of, problem_of
from gptbayes.model.simulate import log_prior
from gptbayes.predict import held_out_log_prob
from gptbayes.stats.summary import ess, summarise
from gptbayes.stats.thinning import evenly_spaced

PSENS_LIMIT = 0.05
"""Value of psense above which a quantity is sensitive (Kallioinen et al. 2024, section 2.4)."""
DELTA = 0.01
"""Change of the power for which importance weights are computed."""
N_CONTEXTS = 3
"""Number of held-out contexts after which the next character is a key quantity."""


def prior_sensitivity(
    idata: az.InferenceData, quantities: Mapping[str, xr.DataArray] | None = None
) -> xr.Dataset:
    """Compute the sensitivity of posterior means to prior and likelihood.

    Parameters
    ----------
    idata : InferenceData
        A fit with several draws.
    quantities : mapping of str to DataArray (chain, draw), optional
        By default `key_quantities`.

    Returns
    -------
    Dataset (component, quantity)
        For the components "prior" and "likelihood": ``shift``, the change of the posterior mean in
        posterior standard deviations if the power of the component doubles, to first order (ln 2
        times the covariance with the log density of the component), and its Monte Carlo standard
        error ``mcse``; ``ess``, the smallest bulk ESS of what it is computed from, the quantity,
        the log density and their product: if it is small the error is underestimated; ``psense``,
        the diagnostic of ArviZ, from importance weights; ``pareto_k`` (component) of these weights,
        and ``n_draws``. Also the ``mean`` and ``sd`` of each quantity. psense compares whole
        distributions. It has no standard error, and with hundreds of parameters its noise alone can
        exceed the limit of 0.05.

    Raises
    ------
    ValueError
        If there are fewer than 4 draws in a chain.

    See Also
    --------
    arviz.psens : Computes psense.

    Examples
    --------
    >>> import tempfile
    >>> import gptbayes as gb
    >>> problem = gb.make_problem(gb.stage("01"), gb.zen_of_python(), batch_size=11)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     idata = gb.open_run(gb.fit.prior(problem, folder, draws=50))
    >>> table = prior_sensitivity(idata)
    >>> table["shift"].sizes
    Frozen({'component': 2, 'quantity': 5})
    """
    if idata.posterior.sizes["draw"] < 4:
        n_draw = idata.posterior.sizes["draw"]
        raise ValueError(f"prior_sensitivity needs at least 4 draws, got {n_draw}")
    values = xr.Dataset(dict(quantities or key_quantities(idata)))
    components = {
        name.removeprefix("log_"): density for name, density in log_densities(idata).items()
    }
    names = xr.DataArray(list(components), dims="component", name="component")
    rows = [_scaled(values, name, log_density) for name, log_density in components.items()]
    stacked = values.to_dataarray("quantity")
    over = ("chain", "draw")
    n_draws = stacked.sizes["chain"] * stacked.sizes["draw"]
    summary = xr.Dataset({"mean": stacked.mean(over), "sd": stacked.std(over), "n_draws": n_draws})
    return xr.concat(rows, names).merge(summary)


def key_quantities(
    idata: az.InferenceData, held_out: xr.DataArray | None = None
) -> dict[str, xr.DataArray]:
    """Compute the quantities whose sensitivity is reported by default.

    Parameters
    ----------
    idata : InferenceData
    held_out : DataArray (chain, draw, held_out_sequence, position), optional
        As of `gptbayes.predict.held_out_log_prob`, if it has been computed already.

    Returns
    -------
    dict of str to DataArray (chain, draw)
        Log probability per character of training and held-out text, in nats; the probability of
        the observed character after three held-out contexts; and, for stages with attention, the
        attention to the current and to the previous token minus uniform attention, averaged over
        heads, layers and held-out contexts.
    """
    problem = problem_of(idata)
    held_out = held_out_log_prob(idata) if held_out is None else held_out
    n = held_out.sizes["held_out_sequence"]
    found = {
        "training log probability per character": idata.log_likelihood["log_lik"].mean(
            ("sequence", "position"), skipna=False
        ),
        "held-out log probability per character": held_out.mean(("held_out_sequence", "position")),
    }
    for i in evenly_spaced(n, N_CONTEXTS):
        context = problem.vocabulary.decode(problem.held_out.x[i])
        character = problem.vocabulary.decode(problem.held_out.y[i, -1:])
        p = np.exp(held_out.isel(held_out_sequence=i, position=-1, drop=True))
        found[f"probability of “{character}” after “{context}”"] = p
    if "attention" in problem.stage.features and problem.design.block_size > 1:
        contexts = problem.held_out.x[:8]
        each = [attention_draws(idata, one[None]).mean(("layer", "head")) for one in contexts]
        weights = xr.concat(each, "sequence")  # averaged one context at a time, to bound memory
        for distance, name in enumerate(("current", "previous")):
            excess = attention_at_distance(weights, distance).mean("sequence")
            found[f"attention to the {name} token, minus uniform"] = excess
    return found


def log_densities(idata: az.InferenceData) -> dict[str, xr.DataArray]:
    """Compute the log densities that power-scaling raises to a power, under ArviZ's names.

    Parameters
    ----------
    idata : InferenceData

    Returns
    -------
    dict of str to DataArray (chain, draw)
        ``log_prior``, up to a constant, and ``log_likelihood``, in nats: groups of these names
        beside a posterior are what ``arviz.psense`` and ``arviz.plot_psense_dist`` read.
    """
    density = log_prior(problem_of(idata), parameters_of(idata))
    coords = {name: idata.posterior[name] for name in ("chain", "draw")}
    prior = xr.DataArray(density, dims=("chain", "draw"), coords=coords)
    likelihood = idata.log_likelihood["log_lik"].sum(("sequence", "position"), skipna=False)
    return {"log_prior": prior, "log_likelihood": likelihood}


def _scaled(values, component, log_density):
    over = ("chain", "draw")
    stacked = values.to_dataarray("quantity")
    z = (stacked - stacked.mean(over)) / stacked.std(over)
    moved = summarise(np.log(2) * z * (log_density - log_density.mean(over)))
    sizes = [ess(each)["ess_bulk"] for each in (stacked, log_density)]
    psense = power_scaling(values, log_density, component, DELTA).to_dataarray("quantity")
    ratios = DELTA * log_density.stack(sample=over).values
    k = max(pareto_smoothed(sign * ratios)[1] for sign in (1, -1))
    return xr.Dataset(
        {
            "shift": moved["mean"],
            "mcse": moved["mcse_mean"],
            "ess": np.fmin(np.fmin(sizes[0], sizes[1]), moved["ess_bulk"]),
            "psense": psense,
            "pareto_k": k,
        }
    )
