"""The arithmetic of tempering from the prior to the posterior, in numpy alone.

Particles with log likelihoods l follow p(theta | y) to the power beta of the likelihood, which is
the likelihood weight. Going from beta to beta + delta gives them the weights w = exp(delta l); the
mean of w estimates the ratio of the two normalising constants without bias.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.optimize import brentq
from scipy.special import logsumexp

ACCEPTANCE_TARGET = 0.8
SMALLEST_STEP = 1e-12
"""Smallest difference of the likelihood weights of two levels."""


class Step(NamedTuple):
    """A step from one level to the next.

    Attributes
    ----------
    likelihood_weight : float
        That of the next level.
    weights : ndarray, (particle,)
        Importance weights of the particles, which sum to 1.
    log_mean_weight : float
        Log of the estimated ratio of normalising constants, nats.
    ess : float
        Effective sample size of the weights, 1 / sum of their squares, as a share of the particles.
    """

    likelihood_weight: float
    weights: np.ndarray
    log_mean_weight: float
    ess: float


def step_to(log_lik: np.ndarray, now: float, then: float) -> Step:
    """Weight particles with likelihood weight ``now`` for likelihood weight ``then``.

    Parameters
    ----------
    log_lik : ndarray, (particle,)
        In nats.
    now, then : float

    Returns
    -------
    Step
    """
    log_w = (then - now) * log_lik
    total = logsumexp(log_w)
    weights = np.exp(log_w - total)
    ess = 1 / np.square(weights).sum() / len(log_lik)
    return Step(then, weights, float(total - np.log(len(log_lik))), float(ess))


def next_step(log_lik: np.ndarray, now: float, target: float, share: float = 0.5) -> Step:
    """Find the largest step towards ``target`` with a given effective sample size.

    Parameters
    ----------
    log_lik : ndarray, (particle,)
        In nats; minus infinity where the data are impossible.
    now, target : float
        Likelihood weights, ``now < target``.
    share : float
        Effective sample size, relative to the number of particles with positive likelihood.

    Returns
    -------
    Step

    Raises
    ------
    RuntimeError
        If no particle has a positive likelihood, or the step is smaller than `SMALLEST_STEP`.
    """
    alive = np.isfinite(log_lik)
    if not alive.any():
        raise RuntimeError("no particle has a log_lik that is finite: the prior excludes the data")
    finite = log_lik[alive]

    def excess(then):
        return step_to(finite, now, then).ess - share

    if excess(target) >= 0:
        return step_to(log_lik, now, target)
    then = brentq(excess, now, target, xtol=1e-15, rtol=1e-12)
    if then - now < SMALLEST_STEP:
        raise RuntimeError(
            f"the step from likelihood weight {now:.3g} is smaller than {SMALLEST_STEP:g}: log_lik "
            f"varies by {np.ptp(finite):.3g} nats between particles; try a prior with less mass "
            "where the data are all but impossible, or more particles"
        )
    return step_to(log_lik, now, then)


def resample(weights: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Resample particles in proportion to their weights, by systematic resampling.

    Parameters
    ----------
    weights : ndarray, (particle,)
        They sum to 1.
    count : int
        Number of draws.
    rng : numpy.random.Generator

    Returns
    -------
    ndarray of int, (count,)
        Indices in random order. A particle with weight w is drawn ``count * w`` times, rounded up
        or down.
    """
    edges = np.cumsum(weights)
    places = (np.arange(count) + rng.random()) / count * edges[-1]
    return rng.permutation(np.minimum(np.searchsorted(edges, places), len(weights) - 1))


def next_step_size(step_size: float, acceptance: float) -> float:
    """Choose the step size of the next level from the mean acceptance statistic of this one.

    The step size changes by a factor of at most 2, assuming that 1 - acceptance is proportional to
    its square (Beskos et al. 2013 derive the asymptotics for Hamiltonian Monte Carlo). It depends
    on earlier levels only. Therefore the transitions of a level leave its target invariant, which
    they would not if the step size were adapted within the chains.

    Parameters
    ----------
    step_size : float
    acceptance : float
        Mean acceptance statistic of NUTS.

    Returns
    -------
    float
    """
    rejection = max(1 - acceptance, 1e-6)
    return step_size * float(np.clip(np.sqrt((1 - ACCEPTANCE_TARGET) / rejection), 0.5, 2.0))


def between_share(values: np.ndarray) -> float:
    """Estimate the share of the variance that is between chains, the intraclass correlation.

    It is 0 for independent draws, and 1 for chains that never move.

    Parameters
    ----------
    values : ndarray, (chain, draw)

    Returns
    -------
    float
        Between 0 and 1; nan for a single chain or single draws.
    """
    n_chain, n_draw = values.shape
    if n_chain < 2 or n_draw < 2:
        return float("nan")
    within = values.var(axis=1, ddof=1).mean()
    between = values.mean(axis=1).var(ddof=1) - within / n_draw
    total = max(between, 0.0) + within
    return float(max(between, 0.0) / total) if total > 0 else 1.0


def log_evidence(log_z: np.ndarray) -> tuple[float, float]:
    """Average independent estimates of an evidence, on its natural scale.

    Parameters
    ----------
    log_z : ndarray, (replicate,)
        Log evidence of each replicate, in nats.

    Returns
    -------
    value, se : float
        Log of the mean of Z, and its standard error by the jackknife (Efron 1982, chapter 3); nan
        for one replicate. Where replicates are several nats apart, the mean is little more than the
        largest of them, and the delta method gives an error of one nat at most, however far apart
        they are.
    """
    log_z = np.asarray(log_z, dtype=float)
    n = len(log_z)
    if n == 1:
        return float(log_z[0]), np.nan
    without = np.array([logsumexp(np.delete(log_z, k)) for k in range(n)]) - np.log(n - 1)
    return float(logsumexp(log_z) - np.log(n)), float(np.std(without) * np.sqrt(n - 1))
