"""Draws from the prior, the prior density, and text generated from draws."""

from __future__ import annotations

import numpy as np

from gptbayes.corpus import Windows
from gptbayes.model.forward import Parameters, last_logits, over_draws, position_logits
from gptbayes.model.problem import Problem
from gptbayes.model.stages import Stage
from gptbayes.stats.blocks import THREADS, in_threads

TEXTS_PER_CHUNK = 128
"""Number of texts generated together. More of them no longer fit into the processor's cache."""
NOISE_BYTES = 64 * 2**20
"""Memory for the random numbers of a chunk, up to which several chunks are worked on at a time."""


def prior_draws(
    problem: Problem, n_draws: int, rng: np.random.Generator, *, overdispersion: float = 1.0
) -> dict[str, np.ndarray]:
    """Draw independently from the prior.

    Parameters
    ----------
    problem : Problem
    n_draws : int
    rng : numpy.random.Generator
    overdispersion : float
        Factor on the deviation of each draw from the prior mean, and so on the prior sd. With 2
        the draws are starting points that are overdispersed relative to prior and posterior.

    Returns
    -------
    dict of str to ndarray
        Each ``(draw, dims of that parameter)``.

    See Also
    --------
    log_prior : The density.
    gptbayes.fit.prior : A run directory with draws from the prior.

    Examples
    --------
    >>> from gptbayes.corpus import zen_of_python
    >>> from gptbayes.model.problem import make_problem
    >>> from gptbayes.model.stages import stage
    >>> problem = make_problem(stage("04"), zen_of_python(), n_embed=6)
    >>> draws = prior_draws(problem, 5, np.random.default_rng(1))
    >>> draws["key"].shape  # draw, layer, head, embed, head_dim
    (5, 1, 1, 6, 6)
    """
    stage, design, priors = problem.stage, problem.design, problem.priors
    return {
        p.name: _prior_draws(p, priors, overdispersion, (n_draws, *stage.shape(p, design)), rng)
        for p in stage.parameters
    }


def log_prior(problem: Problem, parameters: Parameters) -> np.ndarray:
    """Compute the log prior density, without the constants that Stan's ``~`` drops.

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
    total = np.zeros(())
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
    """Draw logarithms of gamma variables with rate 1, without underflow for small shapes.

    If g is gamma(a + 1, 1) and u is uniform, g u^(1 / a) is gamma(a, 1) (Marsaglia & Tsang 2000,
    section 6). The negative logarithm of u is exponential.

    Parameters
    ----------
    shape : float or ndarray
        Shape parameter a, positive; broadcasts against ``size``.
    size : tuple of int
    rng : numpy.random.Generator

    Returns
    -------
    ndarray, ``size``
    """
    return np.log(rng.gamma(np.asarray(shape) + 1, size=size)) - rng.exponential(size=size) / shape


def sample_tokens(log_probs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw from categorical distributions by the Gumbel-max trick (Maddison et al. 2014).

    Parameters
    ----------
    log_probs : ndarray, (..., token)
        Unnormalized log probabilities, in nats.
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
    draw_index: np.ndarray | None = None,
) -> np.ndarray:
    """Continue a prompt, each text with all of its tokens from one draw.

    Parameters
    ----------
    stage : Stage
    parameters : mapping of str to ndarray
        Each ``(draw, dims of that parameter)``.
    prompt : ndarray of int, (prompt_position,)
        0-based tokens, at least one.
    length : int
        Number of tokens to generate.
    block_size : int
        Maximum length of the context.
    rng : numpy.random.Generator
    draw_index : ndarray of int, (text,), optional
        Index of the draw that each text is generated from. By default one text from each draw.

    Returns
    -------
    ndarray of int, (text, length)
        0-based tokens, without the prompt.

    See Also
    --------
    next_tokens : Draws of each next token given the observed context.
    gptbayes.predict.generate_coherent : The same for InferenceData.

    Examples
    --------
    >>> from gptbayes.corpus import zen_of_python
    >>> from gptbayes.model.problem import make_problem
    >>> from gptbayes.model.stages import stage
    >>> problem, rng = make_problem(stage("01"), zen_of_python()), np.random.default_rng(1)
    >>> draws = prior_draws(problem, 3, rng)
    >>> prompt = problem.vocabulary.encode("The ")
    >>> generate_text(problem.stage, draws, prompt, 20, problem.design.block_size, rng).shape
    (3, 20)
    """
    if draw_index is None:
        draw_index = np.arange(len(parameters["token_embedding"]))
    n_texts, start = len(draw_index), len(prompt)
    text = np.empty((n_texts, start + length), dtype=np.int64)
    text[:, :start] = prompt
    n_token = parameters["token_embedding"].shape[-2]

    def noise_of(chunk):
        n = len(draw_index[chunk])
        return (rng.gumbel(size=(n, n_token)) for _ in range(length))

    def extend(chunk, noise):
        drawn = {name: value[draw_index[chunk]] for name, value in parameters.items()}
        for n, each in zip(range(start, start + length), noise, strict=True):
            context = text[chunk, None, max(0, n - block_size) : n]  # one sequence each
            logits = last_logits(stage, drawn, context)[:, 0]
            text[chunk, n] = (logits + each).argmax(axis=-1)  # as `sample_tokens`

    chunks = [slice(n, n + TEXTS_PER_CHUNK) for n in range(0, n_texts, TEXTS_PER_CHUNK)]
    fits = 8 * length * min(n_texts, TEXTS_PER_CHUNK) * n_token <= NOISE_BYTES
    at_a_time = THREADS if fits else 1
    for first in range(0, len(chunks), at_a_time):
        # With one thread the same numbers are drawn, each when it is needed.
        some = chunks[first : first + at_a_time]
        noise = [list(noise_of(chunk)) if fits else noise_of(chunk) for chunk in some]
        in_threads(lambda each: extend(*each), list(zip(some, noise, strict=True)))
    return text[:, start:]


def generate_windows(problem: Problem, parameters: Parameters, rng: np.random.Generator) -> Windows:
    """Simulate training windows from the likelihood of a problem, given one draw.

    The first token of each sequence is uniform on the vocabulary. Each further token is drawn given
    all tokens of the sequence before it. This is the model of disjoint windows, in which no context
    reaches back beyond the start of its window.

    Parameters
    ----------
    problem : Problem
        Only its stage and sizes are used, not its windows.
    parameters : mapping of str to ndarray
        One draw, each ``(dims of that parameter)``.
    rng : numpy.random.Generator

    Returns
    -------
    Windows
        Each ``(sequence, position)``, as many as the training windows of the problem.
    """
    design = problem.design
    text = rng.integers(design.vocab_size, size=(design.batch_size, 1))
    for _ in range(design.block_size):
        logits = last_logits(problem.stage, parameters, text)
        text = np.column_stack([text, sample_tokens(logits, rng)])
    return Windows(text[:, :-1], text[:, 1:])


def next_tokens(
    stage: Stage, parameters: Parameters, x: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Draw each next token of some windows given its observed context, once for each draw.

    Parameters
    ----------
    stage : Stage
    parameters : mapping of str to ndarray
        Each ``(*batch, dims of that parameter)``.
    x : ndarray of int, (sequence, position)
        0-based tokens.
    rng : numpy.random.Generator

    Returns
    -------
    ndarray of int, (*batch, sequence, position)
        0-based tokens.

    See Also
    --------
    generate_text : Each token is drawn given the tokens generated before it.
    """

    def draw(chunk):
        return sample_tokens(position_logits(stage, chunk, x), rng)

    return over_draws(stage, parameters, x, draw, in_order=True)


def _prior_draws(parameter, priors, overdispersion, size, rng):
    mean = priors.mean(parameter)
    if parameter.prior == "log_gamma":
        return mean + overdispersion * (log_gamma_draws(priors.concentration, size, rng) - mean)
    return rng.normal(mean, overdispersion * priors.scale(parameter), size=size)
