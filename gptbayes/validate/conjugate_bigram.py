"""The conjugate bigram: every answer about its posterior, in closed form.

In the variant ``01-log-gamma`` the logits after character i are logs of independent gamma(a, 1)
variables, so that the probabilities p_i = softmax(theta_i) are Dirichlet(a, ..., a). With n_ik the
number of times that character k comes after character i in the training windows,

    p_i | text ~ Dirichlet(a + n_i1, ..., a + n_iV),  independent rows,

and logsumexp(theta_i), which no prediction depends on, is independent of p_i and keeps its prior,
the log of a gamma(V a, 1) variable. The formulas are those of the Dirichlet-multinomial
distribution (Gelman et al. 2013, section 3.4). Samplers, approximations and estimators can be
tested against them on a real posterior. All in nats.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.special import digamma, entr, gammaln, logsumexp

from gptbayes.corpus import Windows
from gptbayes.model.problem import Problem
from gptbayes.model.simulate import log_gamma_draws


class EntropySplit(NamedTuple):
    """Uncertainty of the next character, and where it comes from; nats.

    Attributes
    ----------
    total : ndarray, (...)
        Entropy of the posterior mean of the probabilities.
    expected : ndarray, (...)
        Posterior mean of the entropy: what would be left, were the probabilities known.
    mutual_information : ndarray, (...)
        Of the next character and the probabilities, ``total - expected``: what is due to not
        knowing them.
    """

    total: np.ndarray
    expected: np.ndarray
    mutual_information: np.ndarray


class LeftOut(NamedTuple):
    """Exact leave-one-out, and how hard it is for importance sampling.

    Attributes
    ----------
    log_prob : ndarray, (sequence, position) or (sequence,)
        Log predictive density of each unit given all the others.
    pareto_k : ndarray, the same shape
        Shape of the tail of the importance ratios 1 / p(unit | theta) under the posterior of all.
        Ratios have a variance below 1/2 and a mean below 1.
    """

    log_prob: np.ndarray
    pareto_k: np.ndarray


class ClosedForms(NamedTuple):
    """Everything that is known of the posterior of a conjugate bigram.

    Attributes
    ----------
    dirichlet : ndarray, (context, token)
        Parameters of the posterior of each row of probabilities.
    log_evidence : float
        Log of the marginal likelihood of the training targets.
    predictive : ndarray, (context, token)
        Posterior mean of the probabilities.
    entropy : EntropySplit, (context,)
    left_out_characters : LeftOut, (sequence, position)
    left_out_sequences : LeftOut, (sequence,)
    """

    dirichlet: np.ndarray
    log_evidence: float
    predictive: np.ndarray
    entropy: EntropySplit
    left_out_characters: LeftOut
    left_out_sequences: LeftOut


def closed_forms(problem: Problem) -> ClosedForms:
    """All closed forms of one problem.

    Parameters
    ----------
    problem : Problem
        Of a variant with log-gamma logits, ``gptbayes.model.stages.stage("01-log-gamma")``.

    Returns
    -------
    Answers

    Raises
    ------
    ValueError
        If the problem is of another stage, or its likelihood weight is not 1.
    """
    _check_conjugate(problem)
    if problem.likelihood_weight != 1:
        raise ValueError(
            f"likelihood_weight must be 1 for exact answers, got {problem.likelihood_weight}"
        )
    concentration, n_token = problem.priors.concentration, problem.design.vocab_size
    counts = transition_counts(problem.training, n_token)
    return ClosedForms(
        dirichlet=concentration + counts,
        log_evidence=log_evidence(counts, concentration),
        predictive=predictive(concentration + counts),
        entropy=entropy_split(concentration + counts),
        left_out_characters=leave_one_character_out(problem.training, n_token, concentration),
        left_out_sequences=leave_one_sequence_out(problem.training, n_token, concentration),
    )


def transition_counts(windows: Windows, vocab_size: int) -> np.ndarray:
    """How often each character comes after each other.

    Parameters
    ----------
    windows : Windows
        0-based tokens, ``(sequence, position)``.
    vocab_size : int

    Returns
    -------
    ndarray of int, (context, token)
        n_ik.
    """
    counts = np.zeros((vocab_size, vocab_size), dtype=np.int64)
    np.add.at(counts, (windows.x, windows.y), 1)
    return counts


def log_evidence(counts: np.ndarray, concentration: float) -> float:
    """Log marginal likelihood: the Dirichlet-multinomials of all rows.

    log p(y) is the sum over i of

        log Γ(V a) - log Γ(V a + N_i) + Σ_k [log Γ(a + n_ik) - log Γ(a)]

    Parameters
    ----------
    counts : ndarray, (context, token)
        n_ik, with N_i the sum of a row. Times w, they give the integral over the prior of the
        likelihood to the power w.
    concentration : float
        a.
    """
    return _log_marginal(np.full(np.shape(counts), float(concentration)), np.asarray(counts))


def predictive(dirichlet: np.ndarray) -> np.ndarray:
    """Mean of Dirichlet probabilities, (a + n_ik) / (V a + N_i).

    Parameters
    ----------
    dirichlet : ndarray, (..., token)

    Returns
    -------
    ndarray, (..., token)
    """
    return dirichlet / dirichlet.sum(axis=-1, keepdims=True)


def entropy_split(dirichlet: np.ndarray) -> EntropySplit:
    """Entropy of the mean of Dirichlet probabilities, and mean of their entropy.

    With alpha the parameters and A their sum, the mean of the entropy is (Wolpert & Wolf 1995)

        E[H(p)] = ψ(A + 1) - Σ_k (alpha_k / A) ψ(alpha_k + 1)

    Parameters
    ----------
    dirichlet : ndarray, (..., token)

    Returns
    -------
    EntropySplit, each (...)
    """
    mean = predictive(dirichlet)
    total = entr(mean).sum(axis=-1)
    expected = digamma(dirichlet.sum(axis=-1) + 1) - (mean * digamma(dirichlet + 1)).sum(axis=-1)
    return EntropySplit(total, expected, total - expected)


def leave_one_character_out(windows: Windows, vocab_size: int, concentration: float) -> LeftOut:
    """Predict every training character from all the others.

    Without one of the n_ik that it is, a character has log probability

        log((a + n_ik - 1) / (V a + N_i - 1))

    Under the posterior of all of them p_ik is beta with first parameter a + n_ik, so that
    P(1 / p_ik > t) falls like t to the power -(a + n_ik): Pareto k is 1 / (a + n_ik).

    Parameters
    ----------
    windows : Windows
        0-based tokens, ``(sequence, position)``.
    vocab_size : int
    concentration : float
        a.

    Returns
    -------
    LeftOut, each (sequence, position)
    """
    dirichlet = concentration + transition_counts(windows, vocab_size)
    chosen = dirichlet[windows.x, windows.y]
    log_prob = np.log(chosen - 1) - np.log(dirichlet.sum(axis=-1)[windows.x] - 1)
    return LeftOut(log_prob, 1 / chosen)


def leave_one_sequence_out(windows: Windows, vocab_size: int, concentration: float) -> LeftOut:
    """Predict every training sequence, all of its characters together, from all the others.

    With m_ik the counts of the sequence itself, the density is the ratio of two evidences, of n
    and of n - m. The importance ratio is the product of p_ik to the power -m_ik; its moment of
    order r is a Dirichlet integral, finite if and only if r m_ik < a + n_ik for all i and k:
    Pareto k is the largest m_ik / (a + n_ik). Where m_ik = n_ik, as for a bigram that no other
    sequence has, it approaches 1 as n_ik grows.

    Parameters
    ----------
    windows : Windows
        0-based tokens, ``(sequence, position)``.
    vocab_size : int
    concentration : float
        a.

    Returns
    -------
    LeftOut, each (sequence,)
    """
    dirichlet = concentration + transition_counts(windows, vocab_size)
    log_prob, pareto_k = [], []
    for x, y in zip(*windows, strict=True):
        own = transition_counts(Windows(x, y), vocab_size)
        log_prob.append(_log_marginal(dirichlet - own, own))
        pareto_k.append((own / dirichlet).max())
    return LeftOut(np.array(log_prob), np.array(pareto_k))


def posterior_draws(
    problem: Problem, n_draws: int, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Independent draws from the posterior, or from a power of it.

    Parameters
    ----------
    problem : Problem
        Of a variant with log-gamma logits, with any likelihood weight w: the posterior is then
        Dirichlet(a + w n).
    n_draws : int
    rng : numpy.random.Generator

    Returns
    -------
    dict of str to ndarray
        ``token_embedding``, (draw, token, embed).

    Raises
    ------
    ValueError
        If the problem is of another stage.
    """
    _check_conjugate(problem)
    concentration, n_token = problem.priors.concentration, problem.design.vocab_size
    counts = transition_counts(problem.training, n_token)
    dirichlet = concentration + problem.likelihood_weight * counts
    theta = log_gamma_draws(dirichlet, (n_draws, n_token, n_token), rng)
    total = log_gamma_draws(n_token * concentration, (n_draws, n_token, 1), rng)
    return {"token_embedding": theta - logsumexp(theta, axis=-1, keepdims=True) + total}


def _log_marginal(dirichlet, counts):
    """Log probability of characters with these counts, given the Dirichlet before them."""
    each = gammaln(dirichlet + counts) - gammaln(dirichlet)
    before, added = dirichlet.sum(axis=-1), counts.sum(axis=-1)
    return float(each.sum() - (gammaln(before + added) - gammaln(before)).sum())


def _check_conjugate(problem):
    if any(parameter.prior != "log_gamma" for parameter in problem.stage.parameters):
        raise ValueError(
            f"closed forms need the stage 01-log-gamma, got stage {problem.stage.number}"
        )
