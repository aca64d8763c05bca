"""Scalar functions of parameters and data that simulation-based calibration ranks."""

from __future__ import annotations

import numpy as np
import xarray as xr
from scipy.special import log_softmax

from gptbayes.model.forward import forward, token_log_prob
from gptbayes.model.problem import Problem
from gptbayes.model.simulate import log_prior
from gptbayes.validate.exact_marginals import known_marginals

N_CONTEXTS = 2


def ranked_quantities(problem: Problem, posterior: xr.Dataset) -> xr.DataArray:
    """Compute the functions of the parameters that are ranked.

    Parameters
    ----------
    problem : Problem
        The data-generating model with the simulated text.
    posterior : Dataset (chain, draw, ...)
        Every parameter, with the dims of `gptbayes.model.parameters.Parameter`.

    Returns
    -------
    DataArray (chain, draw, quantity)
        Log likelihood of the text, log prior density up to a constant, and the log probability of
        one next character at each of two fixed contexts, in nats; at the first of these contexts,
        the attention weight of the last position to itself and the sum of squared attention weights
        of the last position, each averaged over heads and layers; and the first scalar of each
        kind with a known marginal standard deviation, see `gptbayes.validate.exact_marginals`.
    """
    dims = ("chain", "draw")
    weights = {str(name): v.transpose(*dims, ...).values for name, v in posterior.data_vars.items()}
    log_lik = token_log_prob(problem.stage, weights, problem.training).sum(axis=(-2, -1))
    quantities = {"log likelihood": log_lik, "log prior": log_prior(problem, weights)}
    quantities |= _predictions(problem, weights)
    for name, known in known_marginals(problem, posterior).items():
        if np.isfinite(known.sd) and "unseen" not in name:  # unseen characters depend on the text
            quantities[name] = known.draws.values[..., 0]
    columns = np.stack(list(quantities.values()), axis=-1)
    return xr.DataArray(columns, dims=(*dims, "quantity"), coords={"quantity": list(quantities)})


def _predictions(problem, weights):
    n_token, n_position = problem.design.vocab_size, problem.design.block_size
    contexts = (np.arange(n_position) + np.arange(N_CONTEXTS)[:, None]) % n_token
    logits, attention = forward(problem.stage, weights, contexts)
    log_probs = log_softmax(logits[..., -1, :], axis=-1)  # (chain, draw, sequence, token)
    characters = problem.vocabulary.characters
    predictions = {
        f"log p({characters[0]} | {problem.vocabulary.decode(context)})": log_probs[..., k, 0]
        for k, context in enumerate(contexts)
    }
    if attention is not None:
        last = attention[..., 0, -1, :]  # (chain, draw, layer, head, key_position)
        predictions["attention to itself"] = last[..., -1].mean(axis=(-2, -1))
        predictions["sum of squared attention"] = (last**2).sum(axis=-1).mean(axis=(-2, -1))
    return predictions
