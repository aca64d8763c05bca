"""What draws of a sampler are worth: effective sample sizes, and distances to a long reference.

Weights are not identified. Looked at is what is: log probabilities of the characters that were held
out, each given those before it, then the log likelihood and the log posterior, in this order.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from gptbayes.model.forward import token_log_prob
from gptbayes.model.simulate import log_prior
from gptbayes.stats import mcmc

BATCH = 500
"""Draws that are evaluated at a time."""


class Worth(NamedTuple):
    """Of scalars, in the order above.

    Attributes
    ----------
    mean, sd, mcse, ess, r_hat : ndarray, (scalar,)
        ``mcse`` of the mean, bulk ``ess``.
    """

    mean: np.ndarray
    sd: np.ndarray
    mcse: np.ndarray
    ess: np.ndarray
    r_hat: np.ndarray

    @property
    def counted(self) -> np.ndarray:
        """Effective sample sizes that decide: not that of the log likelihood."""
        return np.delete(self.ess, -2)


class Bias(NamedTuple):
    """Differences of means from those of a reference, in posterior standard deviations.

    Attributes
    ----------
    log_lik, log_posterior : tuple of float
        The difference and its Monte Carlo error.
    log_probs : tuple of float
        Root mean square over log probabilities without the part that Monte Carlo errors explain,
        and these errors' own root mean square.
    """

    log_lik: tuple[float, float]
    log_posterior: tuple[float, float]
    log_probs: tuple[float, float]


def identified(problem, draws) -> np.ndarray:
    """The quantities of each draw: (draw, scalar).

    Parameters
    ----------
    draws : dict of str to ndarray
        Each ``(draw, stan_shape)``.
    """
    n = len(next(iter(draws.values())))
    parts = [{k: v[a : a + BATCH] for k, v in draws.items()} for a in range(0, n, BATCH)]
    return np.concatenate([_identified(problem, part) for part in parts])


def worth(values: np.ndarray) -> Worth:
    """Of draws (chain, draw, scalar)."""
    found = mcmc.statistics(values, ["mean", "sd", "ess_mean", "ess_bulk", "r_hat"])
    mcse = found["sd"] / np.sqrt(found["ess_mean"])
    return Worth(found["mean"], found["sd"], mcse, found["ess_bulk"], found["r_hat"])


def bias(found: Worth, reference: Worth) -> Bias:
    """Differences from a reference.

    The expectation of the square of a difference is that of the bias and the variance of both
    means; the root mean square is 0 where the differences are less than these explain.
    """
    apart = (found.mean - reference.mean) / reference.sd
    error = np.hypot(found.mcse, reference.mcse) / reference.sd
    of_log_probs, noise = (np.mean(each[:-2] ** 2) for each in (apart, error))
    return Bias(
        (float(apart[-2]), float(error[-2])),
        (float(apart[-1]), float(error[-1])),
        (math.sqrt(max(0.0, of_log_probs - noise)), math.sqrt(noise)),
    )


def draws_to_go(done: int, ess: float, wanted: float, room: float) -> int:
    """How many more draws of each chain it takes.

    Parameters
    ----------
    done : int
        Draws of each chain so far.
    ess : float
        Theirs, of all chains.
    wanted : float
    room : float
        The most that there may be more.

    Returns
    -------
    int
        A tenth more than proportion says; at most three times as many as there are, because the
        ESS of few draws is a rough guess, and at least a tenth.
    """
    guess = done * (wanted / max(ess, 1e-9) - 1) * 1.1
    return int(min(max(guess, 0.1 * done), 3 * done, max(room, 0)))


def _identified(problem, draws):
    draws = problem.stage.from_stan(draws, problem.design)
    held_out = token_log_prob(problem.stage, draws, problem.held_out)
    log_lik = token_log_prob(problem.stage, draws, problem.training).sum(axis=(-1, -2))
    log_posterior = problem.likelihood_weight * log_lik + log_prior(problem, draws)
    rows = held_out.reshape(len(log_lik), -1)
    return np.column_stack([rows, log_lik, log_posterior])
