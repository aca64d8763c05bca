"""The conjugate bigram: a stage whose posterior has closed forms.

In the variant ``01-log-gamma`` the logits theta_i after character i are logs of independent
gamma(a, 1) variables, so that the probabilities p_i = softmax(theta_i) are Dirichlet(a, ..., a).
Let n_ik be the number of times that character k follows character i in the training windows. Then

    p_i | text ~ Dirichlet(a + n_i1, ..., a + n_iV),  independent rows,

and logsumexp(theta_i), on which no prediction depends, is independent of p_i and has its prior
distribution, that of the log of a gamma(V a, 1) variable. The formulas are those of the
Dirichlet-multinomial distribution (Gelman et al. 2013, section 3.4). Samplers, approximations and
estimators can be tested against them on a real posterior. Log densities and entropies are in nats.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.special import digamma, entr, gammaln, logsumexp

from gptbayes.corpus import Windows
from gptbayes.model.problem import Problem
from gptbayes.model.simulate import log_gamma_draws
from gptbayes.predict.baselines import log_evidence as log_evidence


class EntropySplit(NamedTuple):
    """Entropy of the next character, split into aleatoric and epistemic parts, in nats.

    Attributes
    ----------
    total : ndarray, (...)
        Entropy of the posterior mean of the probabilities.
    expected : ndarray, (...)
        Posterior mean of the entropy of the probabilities: the aleatoric part.
    mutual_information : ndarray, (...)
        Mutual information of the next character and the probabilities, ``total - expected``: the
        epistemic part, which is due to uncertainty about the probabilities.
    """

    total: np.ndarray
    expected: np.ndarray
    mutual_information: np.ndarray


class LeaveOneOut(NamedTuple):
    """Exact leave-one-out densities, and the tail shapes of their importance ratios.

    Attributes
    ----------
    log_prob : ndarray, (sequence, position) or (sequence,)
        Log predictive density of each unit given all other units.
    pareto_k : ndarray, the same shape
        Tail shape of the importance ratios 1 / p(unit | theta) under the posterior given all units.
        The ratios have finite variance if it is below 1/2 and a finite mean if it is below 1.
    """

    log_prob: np.ndarray
    pareto_k: np.ndarray


class ClosedForms(NamedTuple):
    """Closed forms of the posterior of a conjugate bigram.

    Attributes
    ----------
    dirichlet : ndarray, (context, token)
        Parameters of the Dirichlet posterior of each row of probabilities.
    log_evidence : float
        Log marginal likelihood of the training targets.
    predictive : ndarray, (context, token)
        Posterior mean of the probabilities.
    entropy : EntropySplit, (context,)
    loo_characters : LeaveOneOut, (sequence, position)
    loo_sequences : LeaveOneOut, (sequence,)
    """

    dirichlet: np.ndarray
    log_evidence: float
    predictive: np.ndarray
    entropy: EntropySplit
    loo_characters: LeaveOneOut
    loo_sequences: LeaveOneOut


def closed_forms(problem: Problem) -> ClosedForms:
    """Compute all closed forms of a problem.

    Parameters
    ----------
    problem : Problem
        Of stage ``01-log-gamma``, with likelihood weight 1.

    Returns
    -------
    ClosedForms

    Raises
    ------
    ValueError
        If the problem is of another stage, or its likelihood weight is not 1.

    See Also
    --------
    posterior_draws : Independent draws from the same posterior.

    Examples
    --------
    >>> from gptbayes.model.problem import make_problem
    >>> from gptbayes.model.stages import stage
    >>> exact = closed_forms(make_problem(stage("01-log-gamma"), "abracadabra", block_size=3))
    >>> exact.predictive[0]  # after "a": b, c and d once each, 1 added to all five counts
    array([0.125, 0.25 , 0.25 , 0.25 , 0.125])
    >>> round(exact.log_evidence, 2)  # -log(5 · 6 · 7 · 5 · 5 · 5)
    -10.18
    """
    _check_conjugate(problem)
    if problem.likelihood_weight != 1:
        raise ValueError(
            f"likelihood_weight must be 1 for closed forms, got {problem.likelihood_weight}"
        )
    concentration, n_token = problem.priors.concentration, problem.design.vocab_size
    counts = transition_counts(problem.training, n_token)
    return ClosedForms(
        dirichlet=concentration + counts,
        log_evidence=log_evidence(counts, concentration),
        predictive=predictive(concentration + counts),
        entropy=entropy_split(concentration + counts),
        loo_characters=leave_one_character_out(problem.training, n_token, concentration),
        loo_sequences=leave_one_sequence_out(problem.training, n_token, concentration),
    )


def transition_counts(windows: Windows, vocab_size: int) -> np.ndarray:
    """Count how often each character follows each other character.

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


def predictive(dirichlet: np.ndarray) -> np.ndarray:
    """Compute the mean of Dirichlet probabilities, (a + n_ik) / (V a + N_i).

    Parameters
    ----------
    dirichlet : ndarray, (..., token)

    Returns
    -------
    ndarray, (..., token)
    """
    return dirichlet / dirichlet.sum(axis=-1, keepdims=True)


def entropy_split(dirichlet: np.ndarray) -> EntropySplit:
    """Compute the entropy of mean Dirichlet probabilities, and their mean entropy.

    With alpha the parameters and A their sum, the mean entropy is (Wolpert & Wolf 1995)

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


def leave_one_character_out(windows: Windows, vocab_size: int, concentration: float) -> LeaveOneOut:
    """Compute the log probability of each training character given all other characters.

    A character that is one of the n_ik has leave-one-out log probability

        log((a + n_ik - 1) / (V a + N_i - 1))

    Under the posterior given all characters, p_ik is beta with first parameter a + n_ik, so that
    P(1 / p_ik > t) decreases like t to the power -(a + n_ik). Pareto k is therefore 1 / (a + n_ik).

    Parameters
    ----------
    windows : Windows
        0-based tokens, ``(sequence, position)``.
    vocab_size : int
    concentration : float
        a.

    Returns
    -------
    LeaveOneOut, each (sequence, position)
    """
    dirichlet = concentration + transition_counts(windows, vocab_size)
    chosen = dirichlet[windows.x, windows.y]
    log_prob = np.log(chosen - 1) - np.log(dirichlet.sum(axis=-1)[windows.x] - 1)
    return LeaveOneOut(log_prob, 1 / chosen)


def leave_one_sequence_out(windows: Windows, vocab_size: int, concentration: float) -> LeaveOneOut:
    """Compute the joint log density of each training sequence given all other sequences.

    With m_ik the counts of the sequence, the density is the ratio of the marginal likelihoods of
    n and of n - m. The importance ratio is the product of p_ik to the power -m_ik. Its moment of
    order r is a Dirichlet integral, which is finite if and only if r m_ik < a + n_ik for all i and
    k. Pareto k is therefore the largest m_ik / (a + n_ik). For a bigram that no other sequence has,
    m_ik = n_ik, and k approaches 1 as n_ik grows.

    Parameters
    ----------
    windows : Windows
        0-based tokens, ``(sequence, position)``.
    vocab_size : int
    concentration : float
        a.

    Returns
    -------
    LeaveOneOut, each (sequence,)
    """
    dirichlet = concentration + transition_counts(windows, vocab_size)
    log_prob, pareto_k = [], []
    for x, y in zip(*windows, strict=True):
        own = transition_counts(Windows(x, y), vocab_size)
        log_prob.append(_log_marginal(dirichlet - own, own))
        pareto_k.append((own / dirichlet).max())
    return LeaveOneOut(np.array(log_prob), np.array(pareto_k))


def posterior_draws(
    problem: Problem, n_draws: int, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Draw independently from the posterior or a power posterior.

    Parameters
    ----------
    problem : Problem
        Of stage ``01-log-gamma``. With likelihood weight w, rows of the power posterior are
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
    """Log probability of characters with these counts under a Dirichlet prior."""
    terms = gammaln(dirichlet + counts) - gammaln(dirichlet)
    prior_total, total = dirichlet.sum(axis=-1), counts.sum(axis=-1)
    return float(terms.sum() - (gammaln(prior_total + total) - gammaln(prior_total)).sum())


def _check_conjugate(problem):
    if any(parameter.prior != "log_gamma" for parameter in problem.stage.parameters):
        raise ValueError(
            f"closed forms need the stage 01-log-gamma, got stage {problem.stage.number}"
        )
