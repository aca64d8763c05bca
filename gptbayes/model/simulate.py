"""Draws from the prior, its density, and text from draws."""

from __future__ import annotations

import numpy as np

from gptbayes.corpus import Windows
from gptbayes.model.forward import Parameters, forward, last_logits, over_draws
from gptbayes.model.problem import Problem
from gptbayes.model.stages import Stage

DRAWS_AT_ONCE = 128
"""That write together: so many that numpy is busy, so few that they stay near in the cache."""


def prior_draws(
    problem: Problem, n_draws: int, rng: np.random.Generator, *, widen: float = 1.0
) -> dict[str, np.ndarray]:
    """Independent draws from the prior.

    Parameters
    ----------
    problem : Problem
    n_draws : int
    rng : numpy.random.Generator
    widen : float
        Factor on every distance from the prior mean, and so on the prior sd; 2 gives starting
        points that are over-dispersed relative to prior and posterior both.

    Returns
    -------
    dict of str to ndarray
        Each ``(draw, dims of that parameter)``.
    """
    stage, design, priors = problem.stage, problem.design, problem.priors
    return {
        p.name: _prior_draws(p, priors, widen, (n_draws, *stage.shape(p, design)), rng)
        for p in stage.parameters
    }


def log_prior(problem: Problem, parameters: Parameters) -> np.ndarray:
    """Log prior density of draws, without the constants that Stan's `~` leaves out.

    Parameters
    ----------
    problem : Problem
    parameters : mapping of str to ndarray
        Each ``(*batch, dims of that parameter)``.

    Returns
    -------
    ndarray, (*batch)
        In nats.
    """
    total = 0.0
    for p in problem.stage.parameters:
        values = parameters[p.name]
        if p.prior == "log_gamma":
            density = problem.priors.concentration * values - np.exp(values)
        else:
            density = -0.5 * ((values - p.prior_mean) / problem.priors.scale(p)) ** 2
        total = total + density.sum(axis=tuple(range(-len(p.dims), 0)))
    return total


def log_gamma_draws(
    shape: float | np.ndarray, size: tuple[int, ...], rng: np.random.Generator
) -> np.ndarray:
    """Logs of gamma variables of rate 1, also where the variables themselves would underflow.

    A gamma(a, 1) variable is one of gamma(a + 1, 1) times u^(1 / a), u uniform (Marsaglia & Tsang
    2000, section 6); minus the log of u is exponential.

    Parameters
    ----------
    shape : float or ndarray
        Positive; broadcasts against ``size``.
    size : tuple of int
    rng : numpy.random.Generator

    Returns
    -------
    ndarray, ``size``
    """
    return np.log(rng.gamma(np.asarray(shape) + 1, size=size)) - rng.exponential(size=size) / shape


def sample_tokens(log_probs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw from categorical distributions by the Gumbel-max trick.

    Parameters
    ----------
    log_probs : ndarray, (..., token)
        Unnormalised log probabilities.
    rng : numpy.random.Generator

    Returns
    -------
    ndarray of int, (...)
    """
    return np.argmax(log_probs + rng.gumbel(size=log_probs.shape), axis=-1)


def generate_text(
    stage: Stage,
    parameters: Parameters,
    prompt: np.ndarray,
    length: int,
    block_size: int,
    rng: np.random.Generator,
    *,
    authors: np.ndarray | None = None,
) -> np.ndarray:
    """Draws go on from a prompt, each by itself: coherent texts.

    Parameters
    ----------
    stage : Stage
    parameters : mapping of str to ndarray
        Each ``(draw, dims of that parameter)``.
    prompt : ndarray of int, (position,)
    length : int
        Number of tokens to write.
    block_size : int
        The longest context the model can read.
    rng : numpy.random.Generator
    authors : ndarray of int, (text,), optional
        Which draw writes each text; by default there is one by every draw.

    Returns
    -------
    ndarray of int, (text, length)
    """
    authors = np.arange(len(parameters["token_embedding"])) if authors is None else authors
    n_texts, start = len(authors), len(prompt)
    text = np.empty((n_texts, start + length), dtype=np.int64)
    text[:, :start] = prompt
    for first in range(0, n_texts, DRAWS_AT_ONCE):
        chunk = slice(first, first + DRAWS_AT_ONCE)
        drawn = {name: value[authors[chunk]] for name, value in parameters.items()}
        for n in range(start, start + length):
            context = text[chunk, None, max(0, n - block_size) : n]  # one sequence each
            text[chunk, n] = sample_tokens(last_logits(stage, drawn, context)[:, 0], rng)
    return text[:, start:]


def generate_windows(problem: Problem, parameters: Parameters, rng: np.random.Generator) -> Windows:
    """A text for the likelihood of a problem, written by one draw.

    Every sequence begins anew with a character that all are equally likely to be; each further
    one is drawn given all that the sequence has so far. That is what the likelihood says of
    disjoint windows: their contexts do not reach back beyond their beginning.

    Parameters
    ----------
    problem : Problem
        Its windows are not looked at, only its sizes.
    parameters : mapping of str to ndarray
        Each ``(dims of that parameter)``.
    rng : numpy.random.Generator

    Returns
    -------
    Windows
        ``(sequence, position)``, ``y`` one character ahead of ``x``.
    """
    design = problem.design
    text = rng.integers(design.vocab_size, size=(design.batch_size, 1))
    for _ in range(design.block_size):
        logits = forward(problem.stage, parameters, text).logits[:, -1, :]
        text = np.column_stack([text, sample_tokens(logits, rng)])
    return Windows(text[:, :-1], text[:, 1:])


def next_tokens(
    stage: Stage, parameters: Parameters, x: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """For every draw and place in some windows, one draw of the next token given the real context.

    Parameters
    ----------
    stage : Stage
    parameters : mapping of str to ndarray
        Each ``(*batch, dims of that parameter)``.
    x : ndarray of int, (sequence, position)
    rng : numpy.random.Generator

    Returns
    -------
    ndarray of int, (*batch, sequence, position)
    """

    def draw(chunk):
        return sample_tokens(forward(stage, chunk, x).logits, rng)

    return over_draws(stage, parameters, x, draw)


def _prior_draws(parameter, priors, widen, size, rng):
    mean = priors.mean(parameter)
    if parameter.prior == "log_gamma":
        return mean + widen * (log_gamma_draws(priors.concentration, size, rng) - mean)
    return rng.normal(mean, widen * priors.scale(parameter), size=size)
