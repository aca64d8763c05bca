"""The forward pass of all stages in numpy: from parameters and tokens to logits and attention.

The same function in Stan is ``gpt_logits`` of each stage's program. Tests require the two to agree
to 1e-10. Parameters may have leading batch dims, usually ``chain, draw``; results have the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from gptbayes.corpus import Windows
from gptbayes.model.blocks import (
    after_attention,
    attend,
    attention_of_layer,
    embed_tokens,
    layers_of,
    logits_of,
)
from gptbayes.model.layers import log_softmax
from gptbayes.model.stages import Stage
from gptbayes.stats.blocks import THREADS, in_threads, keep_freed_memory

Parameters = Mapping[str, np.ndarray]

MAX_BYTES = 256 * 2**20
"""Default limit on the memory of one chunk of draws in bytes, see `over_draws`."""

CHUNK_BYTES = 12 * 2**20
"""Memory of a chunk: larger chunks leave the processor's cache, smaller ones take more calls."""

RUNS = 4
"""Sums over chunks that are added up at the end: as many on every machine, for equal rounding."""

NO_ATTENTION = "the stage has no attention, stages 04 to 12 have"


class Activations(NamedTuple):
    """Results of a forward pass.

    Attributes
    ----------
    logits : ndarray, (..., sequence, position, token)
        Unnormalized log probabilities of the next token.
    attention : ndarray, (..., layer, head, sequence, query_position, key_position), or None
        Attention weights. They sum to one over ``key_position`` and are zero at key positions
        after the query position. With dropout they are multiplied by the dropout mask, and no
        longer sum to one. None for stages without attention.
    """

    logits: np.ndarray
    attention: np.ndarray | None

    @property
    def attention_weights(self) -> np.ndarray:
        """``attention`` of a stage that has attention; a ValueError for the others."""
        if self.attention is None:
            raise ValueError(NO_ATTENTION)
        return self.attention


def forward(
    stage: Stage,
    parameters: Parameters,
    tokens: np.ndarray,
    *,
    blocked: np.ndarray | None = None,
) -> Activations:
    """Compute the logits and attention weights of a stage.

    Parameters
    ----------
    stage : Stage
    parameters : mapping of str to ndarray
        Each ``(..., dims of that parameter)``, all with the same leading batch dims.
    tokens : ndarray of int, (sequence, position) or (..., sequence, position)
        0-based, with at most ``block_size`` positions if the stage has position embeddings. With
        the leading batch dims of the parameters, each draw has tokens of its own.
    blocked : ndarray of bool, (sequence, position), optional
        Key positions that are masked for all other query positions, in every layer (attention
        knockout, Geva et al. 2023). The softmax is taken over the remaining positions. No effect on
        stages without attention.

    Returns
    -------
    Activations

    Raises
    ------
    ValueError
        If the tokens have the wrong dims or too many positions, or if a stage with dropout has no
        masks.

    See Also
    --------
    last_logits : Logits of the last position only, at lower cost.
    token_log_prob : Log probabilities of the targets of some windows.

    Examples
    --------
    >>> from gptbayes.corpus import zen_of_python
    >>> from gptbayes.model.problem import make_problem
    >>> from gptbayes.model.simulate import prior_draws
    >>> from gptbayes.model.stages import stage
    >>> problem = make_problem(stage("05"), zen_of_python(), batch_size=3)
    >>> draws = prior_draws(problem, 7, np.random.default_rng(1))
    >>> logits, attention = forward(problem.stage, draws, problem.training.x)
    >>> logits.shape  # draw, sequence, position, token
    (7, 3, 8, 45)
    >>> attention.shape  # draw, layer, head, sequence, query_position, key_position
    (7, 1, 2, 3, 8, 8)
    """
    logits, weights, _ = _run(stage, parameters, tokens, blocked=blocked, keep_weights=True)
    return Activations(logits, np.stack(weights, axis=-5) if weights else None)


def attention_of(stage: Stage, parameters: Parameters, tokens: np.ndarray) -> np.ndarray:
    """Compute the attention weights of a stage and no logits, at lower cost.

    Parameters
    ----------
    stage, parameters, tokens
        As for `forward`.

    Returns
    -------
    ndarray, (..., layer, head, sequence, query_position, key_position)

    Raises
    ------
    ValueError
        As `forward`, and for a stage without attention.
    """
    if "attention" not in stage.features:
        raise ValueError(NO_ATTENTION)
    stream, layers = embed_tokens(stage, parameters, tokens), layers_of(stage, parameters)
    weights: list[Any] = []
    for layer in layers[:-1]:
        attended = attend(layer, stream, keep_weights=True)
        stream, _ = after_attention(stage, layer, stream, attended.heads)
        weights.append(attended.weights)
    weights.append(attention_of_layer(layers[-1], stream))
    return np.stack(weights, axis=-5)


def position_logits(stage: Stage, parameters: Parameters, tokens: np.ndarray) -> np.ndarray:
    """Compute the logits of all positions and no attention weights, at lower cost.

    Parameters
    ----------
    stage, parameters, tokens
        As for `forward`.

    Returns
    -------
    ndarray, (..., sequence, position, token)

    Raises
    ------
    ValueError
        As `forward`.
    """
    return _run(stage, parameters, tokens)[0]


def last_logits(
    stage: Stage,
    parameters: Parameters,
    tokens: np.ndarray,
    *,
    blocked: np.ndarray | None = None,
) -> np.ndarray:
    """Compute the logits of the last position only.

    In the last layer only the query of the last position is computed.

    Parameters
    ----------
    stage, parameters, tokens, blocked
        As for `forward`.

    Returns
    -------
    ndarray, (..., sequence, token)

    Raises
    ------
    ValueError
        As `forward`.
    """
    logits, _, _ = _run(stage, parameters, tokens, blocked=blocked, last=True)
    return logits[..., 0, :]


def active_hidden_units(stage: Stage, parameters: Parameters, tokens: np.ndarray) -> np.ndarray:
    """Find the hidden units of the feed-forward layers that are active at each position.

    Parameters
    ----------
    stage, parameters, tokens
        As for `forward`.

    Returns
    -------
    ndarray of bool, (..., layer, hidden, sequence, position)
        True where the input of the ReLU is positive.

    Raises
    ------
    ValueError
        As `forward`, and for a stage without a feed-forward layer.
    """
    if "feed_forward" not in stage.features:
        raise ValueError(
            f"stage must be one of 06 to 12, got {stage.number}, which has no hidden units"
        )
    _, _, hidden = _run(stage, parameters, tokens)
    return np.stack([np.moveaxis(each > 0, -1, -3) for each in hidden], axis=-4)


def token_log_prob(
    stage: Stage, parameters: Parameters, windows: Windows, *, max_bytes: int = MAX_BYTES
) -> np.ndarray:
    """Compute the log probability of each target, for each draw.

    Parameters
    ----------
    stage : Stage
    parameters : mapping of str to ndarray
        Each ``(*batch, dims of that parameter)``.
    windows : Windows
        0-based tokens, ``(sequence, position)``.
    max_bytes : int
        Approximate limit on the memory of the activations held at any time.

    Returns
    -------
    ndarray, (*batch, sequence, position)
        In nats.

    Raises
    ------
    ValueError
        As `forward`.

    See Also
    --------
    gptbayes.model.log_density.log_posterior : Their weighted sum plus the log prior density.
    """

    def log_prob(chunk):
        log_probs = log_softmax(position_logits(stage, chunk, windows.x))
        return np.take_along_axis(log_probs, windows.y[None, ..., None], axis=-1)[..., 0]

    return over_draws(stage, parameters, windows.x, log_prob, max_bytes=max_bytes)


def over_draws(
    stage: Stage,
    parameters: Parameters,
    tokens: np.ndarray,
    function: Callable[[Parameters], np.ndarray],
    *,
    max_bytes: int = MAX_BYTES,
    in_order: bool = False,
    last: bool = False,
) -> np.ndarray:
    """Apply a function to chunks of draws, so that memory stays bounded.

    Several chunks are worked on at a time.

    Parameters
    ----------
    stage : Stage
    parameters : mapping of str to ndarray
        Each ``(*batch, dims of that parameter)``.
    tokens : ndarray of int, (sequence, position)
        What ``function`` runs the forward pass on: its size decides how many draws fit.
    function : callable
        Takes parameters with one leading dim, returns an array with the same leading dim.
    max_bytes : int
        Approximate limit on the memory of the activations held at any time.
    in_order : bool
        One chunk after another, as for a function that draws random numbers.
    last : bool
        Whether the function needs the logits of the last position only, as of `last_logits`: more
        draws fit.

    Returns
    -------
    ndarray, (*batch, ...)
    """
    first = stage.parameters[0]
    values = parameters[first.name]
    batch = values.shape[: values.ndim - len(first.dims)]
    size = _draws_per_chunk(parameters, tokens, min(max_bytes, CHUNK_BYTES), last)
    chunks = list(_chunks(stage, parameters, batch, size))
    if len(chunks) > 1:
        keep_freed_memory()
    joined = np.concatenate(in_threads(function, chunks, at_a_time=1 if in_order else THREADS))
    return joined.reshape(*batch, *joined.shape[1:])


def weighted_sums(
    stage: Stage,
    parameters: Parameters,
    tokens: np.ndarray,
    function: Callable[[Parameters], np.ndarray],
    weights: np.ndarray,
    *,
    max_bytes: int = MAX_BYTES,
) -> np.ndarray:
    """Sum a function of draws over all draws, with weights; the values of draws are not kept.

    Parameters
    ----------
    stage, tokens, function, max_bytes
        As for `over_draws`.
    parameters : mapping of str to ndarray
        Each ``(draw, dims of that parameter)``.
    weights : ndarray, (weighting, draw)

    Returns
    -------
    ndarray, (weighting, ...)
    """
    size = _draws_per_chunk(parameters, tokens, min(max_bytes, CHUNK_BYTES), False)
    chunks = list(_chunks(stage, parameters, weights.shape[1:], size))
    if len(chunks) > 1:
        keep_freed_memory()

    def total(numbers):
        found: Any = 0.0
        for k in numbers:
            here = slice(size * k, size * (k + 1))
            found += np.tensordot(weights[:, here], function(chunks[k]), axes=1)
        return found

    runs = [range(first, len(chunks), RUNS) for first in range(min(RUNS, len(chunks)))]
    return sum(in_threads(total, runs))


def _run(stage, parameters, tokens, *, blocked=None, last=False, keep_weights=False):
    """The forward pass: logits at the query positions, and activations of each layer.

    Attention weights and hidden units are lists over layers. With ``last``, positions before the
    last have keys and values in the last layer and nothing else.
    """
    stream, layers = embed_tokens(stage, parameters, tokens), layers_of(stage, parameters)
    weights, hidden = [], []
    for k, layer in enumerate(layers, start=1):
        n_queries = 1 if last and k == len(layers) else None
        attended = attend(
            layer, stream, blocked=blocked, n_queries=n_queries, keep_weights=keep_weights
        )
        stream, units = after_attention(stage, layer, stream, attended.heads)
        weights.append(attended.weights)
        hidden.append(units)
    logits = logits_of(stage, parameters, stream[..., -1:, :] if last else stream)
    return logits, weights, hidden


def _draws_per_chunk(parameters, tokens, max_bytes, last):
    """How many draws fit, by the approximate number of activations that are held for a token."""
    n_token, n_embed = parameters["token_embedding"].shape[-2:]
    n_position = max(tokens.shape[-1], 1)
    n_layer, n_head = parameters["key"].shape[-4:-2] if "key" in parameters else (0, 0)
    if last:  # weights are not kept, and the last layer and the logits are those of one position
        per_token = 2 * n_embed + 3 * (n_head + n_token) / n_position
        per_token += 14 * (n_embed + n_head) if n_layer > 1 else 0
    else:
        per_token = 2 * n_token + 14 * n_embed + (2 * n_layer + 3) * n_head * n_position
    return max(1, int(max_bytes // (8 * max(tokens.size, 1) * per_token)))


def _chunks(stage: Stage, parameters, batch, size) -> Iterator[dict[str, np.ndarray]]:
    flat = {
        p.name: parameters[p.name].reshape(-1, *parameters[p.name].shape[len(batch) :])
        for p in stage.parameters
    }
    for start in range(0, int(np.prod(batch)), size):
        yield {name: value[start : start + size] for name, value in flat.items()}
