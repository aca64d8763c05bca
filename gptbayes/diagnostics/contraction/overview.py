"""Contraction of a fit, from all points of view."""

from __future__ import annotations

import arviz as az

from gptbayes.diagnostics.contraction.blocks import has_normal_prior
from gptbayes.diagnostics.contraction.gauge import gauge_contraction
from gptbayes.diagnostics.contraction.local import N_LOCAL, local_contraction
from gptbayes.diagnostics.contraction.parts import compare_with_prior, part_summaries
from gptbayes.diagnostics.contraction.sentences import Contraction, contraction_sentences
from gptbayes.diagnostics.contraction.spread import prediction_contraction, weight_contraction
from gptbayes.groups import group
from gptbayes.inference import parameters_of, problem_of
from gptbayes.stats.thinning import evenly_spaced
from gptbayes.symmetry.dimension import MAX_PARAMETERS

MAX_DRAWS = 250
"""Draws per chain, evenly spaced, for aligned weights, predictions, heads and hidden units."""


def posterior_contraction(
    idata: az.InferenceData, *, n_local: int = N_LOCAL, max_draws: int = MAX_DRAWS
) -> Contraction:
    """Contraction of the posterior of a fit, from several points of view.

    Parameters
    ----------
    idata : InferenceData
        From NUTS or Pathfinder. A mode has no variance.
    n_local : int
        Number of draws at which the local approximation is computed. Each takes seconds with 1000
        parameters and up to a minute with 2500.
    max_draws : int
        Draws per chain, evenly spaced, for aligned weights, predictions, heads and hidden units.

    Returns
    -------
    Contraction

    Raises
    ------
    ValueError
        If there are fewer than four draws per chain.
    """
    if idata.posterior.sizes["draw"] < 4:
        n = idata.posterior.sizes["draw"]
        raise ValueError(f"posterior_contraction needs at least 4 draws per chain, got {n}")
    problem = problem_of(idata)
    posterior = _thin(parameters_of(idata), max_draws)
    prior = parameters_of(idata, "prior")
    local = None
    if has_normal_prior(problem) and problem.stage.n_parameters(problem.design) <= MAX_PARAMETERS:
        local = local_contraction(problem, posterior, n_draws=n_local)
    summaries = (part_summaries(problem, draws) for draws in (posterior, prior))
    pairs = zip(*(each.items() for each in summaries), strict=True)
    parts = {name: compare_with_prior(ours, theirs) for (name, ours), (_, theirs) in pairs}
    gauge = gauge_contraction(problem, group(idata, "posterior"))
    weights = weight_contraction(problem, posterior, prior)
    predictions = prediction_contraction(problem, posterior, prior)
    found = Contraction(gauge, local, weights, predictions, parts, [])
    return found._replace(sentences=contraction_sentences(found))


def _thin(parameters, max_draws):
    n_draw = next(iter(parameters.values())).shape[1]
    index = evenly_spaced(n_draw, max_draws)
    return {name: value[:, index] for name, value in parameters.items()}
