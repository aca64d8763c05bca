"""Contraction of draws: of aligned weights, and of predictions."""

from __future__ import annotations

import numpy as np
import xarray as xr

from gptbayes.diagnostics.contraction.blocks import parameter_blocks, zero_if_constant
from gptbayes.model.forward import Parameters, over_draws, position_logits
from gptbayes.model.log_density import ravel
from gptbayes.model.problem import Problem
from gptbayes.stats.summary import summarise
from gptbayes.symmetry import align


def weight_contraction(problem: Problem, posterior: Parameters, prior: Parameters) -> xr.Dataset:
    """Contraction of aligned weights relative to aligned prior draws.

    Parameters
    ----------
    problem : Problem
    posterior, prior : mapping of str to ndarray
        Each ``(chain, draw, dims of that parameter)``. Alignment reduces the spread of few draws
        more than that of many, so use similar numbers of both.

    Returns
    -------
    Dataset (block)
        Blocks as in `local_contraction`. ``posterior_sd`` and ``prior_sd`` after alignment, root
        mean squares over the weights of the block, in prior standard deviations; ``contraction``
        and its Monte Carlo standard error ``mcse``; ``ess_bulk`` of the squared deviations.
    """
    where, coords = parameter_blocks(problem)
    squares = []
    for draws in (posterior, prior):
        flat = _standardise(problem, align(problem.stage, draws).parameters)
        deviation = (flat - flat.mean(axis=(0, 1))) ** 2
        blocks = [deviation[..., at].mean(axis=-1) for at in where]
        squares.append(xr.DataArray(np.stack(blocks, -1), dims=("chain", "draw", "block")))
    return _from_squares(*squares).assign_coords(coords)


def prediction_contraction(
    problem: Problem, posterior: Parameters, prior: Parameters
) -> xr.Dataset:
    """Contraction of the centred logits at the contexts of the training text.

    Parameters
    ----------
    problem : Problem
    posterior, prior : mapping of str to ndarray
        Each ``(chain, draw, dims of that parameter)``.

    Returns
    -------
    Dataset (position)
        ``posterior_sd`` and ``prior_sd`` of a centred logit, in nats, root mean squares over
        sequences and characters; ``contraction`` and its Monte Carlo standard error ``mcse``;
        ``ess_bulk`` of the squared deviations.
    """
    stage, x = problem.stage, problem.training.x

    def logits(chunk):
        values = position_logits(stage, chunk, x)
        return values - values.mean(axis=-1, keepdims=True)

    squares = []
    for draws in (posterior, prior):
        first = over_draws(stage, draws, x, logits)
        second = over_draws(stage, draws, x, lambda chunk: logits(chunk) ** 2)
        mean = first.mean(axis=(0, 1))
        deviation = second - 2 * mean * first + mean**2
        values = deviation.mean(axis=(-3, -1))  # (chain, draw, position)
        squares.append(xr.DataArray(values, dims=("chain", "draw", "position")))
    return _from_squares(*squares)


def _standardise(problem, parameters):
    priors = problem.priors
    return ravel(
        problem.stage,
        {
            p.name: (parameters[p.name] - priors.mean(p)) / priors.scale(p)
            for p in problem.stage.parameters
        },
    )


def _from_squares(posterior, prior):
    """Contraction and its Monte Carlo standard error from squared deviations (chain, draw, ...)."""
    ours, theirs = summarise(posterior), summarise(prior)
    share = ours["mean"] / theirs["mean"]
    errors = [zero_if_constant(each["mcse_mean"]) / each["mean"] for each in (ours, theirs)]
    return xr.Dataset(
        {
            "contraction": 1 - share,
            "mcse": share * np.sqrt(errors[0] ** 2 + errors[1] ** 2),
            "posterior_sd": np.sqrt(ours["mean"]),
            "prior_sd": np.sqrt(theirs["mean"]),
            "ess_bulk": ours["ess_bulk"],
        }
    )
