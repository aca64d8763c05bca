"""Probabilities of the next character after many contexts, for each draw, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import xarray as xr

from gptbayes.model.forward import Parameters, last_logits, over_draws
from gptbayes.model.layers import softmax_and_log
from gptbayes.model.problem import Problem
from gptbayes.stats.blocks import THREADS, in_threads

DIMS = ("chain", "draw", "context", "token")

COPIES = 4
"""Number of arrays of the size of the probabilities that a summary holds at a time."""

BLOCK_BYTES = 64 * 2**20
"""Memory of a block of contexts. Larger blocks are no faster."""


def next_probabilities(
    problem: Problem, parameters: Parameters, contexts: Sequence[np.ndarray] | np.ndarray
) -> xr.DataArray:
    """Compute the probabilities of the next character after several contexts, for each draw.

    Parameters
    ----------
    problem : Problem
    parameters : mapping of str to ndarray
        Each ``(chain, draw, dims of that parameter)``.
    contexts : sequence of ndarray of int, or ndarray of int (context, position)
        The last ``block_size`` tokens of each are used.

    Returns
    -------
    DataArray (chain, draw, context, token)
    """
    p, _ = probabilities_and_logs(problem, parameters, contexts)
    coords = {"token": list(problem.vocabulary.characters)}
    return xr.DataArray(p, dims=DIMS, coords=coords)


def probabilities_and_logs(
    problem: Problem, parameters: Parameters, contexts: Sequence[np.ndarray] | np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Compute what `next_probabilities` does, and the logarithms.

    Parameters
    ----------
    problem, parameters, contexts
        As in `next_probabilities`.

    Returns
    -------
    tuple of ndarray, (chain, draw, context, token)
    """
    stage, block_size = problem.stage, problem.design.block_size
    ends = [context[-block_size:] for context in contexts]
    lengths = np.array([len(end) for end in ends])
    if len(set(lengths)) == 1:
        return _next_of_equal_length(stage, parameters, np.stack(ends))
    shape = (*parameters["token_embedding"].shape[:2], len(ends), len(problem.vocabulary))
    found = np.empty(shape), np.empty(shape)
    for length in np.unique(lengths):
        rows = np.flatnonzero(lengths == length)
        some = _next_of_equal_length(stage, parameters, np.stack([ends[i] for i in rows]))
        for all_of_them, these in zip(found, some, strict=True):
            all_of_them[:, :, rows] = these
    return found


def over_contexts(
    problem: Problem,
    parameters: Parameters,
    contexts: Sequence[np.ndarray],
    function: Callable[[xr.DataArray, xr.DataArray, slice], xr.Dataset],
    *,
    max_bytes: int = BLOCK_BYTES,
) -> xr.Dataset:
    """Summarise next-character probabilities at many contexts in bounded memory.

    Parameters
    ----------
    problem, parameters, contexts
        As in `next_probabilities`.
    function : callable
        A function of the probabilities (chain, draw, context, token) of a block of contexts, of
        their logarithms, and of the slice of these contexts. Returns summaries (context). It is
        called for several blocks at a time.
    max_bytes : int
        Approximate bound on memory.

    Returns
    -------
    Dataset (context)
    """
    size = _block_size(problem, parameters, max_bytes)
    blocks = [slice(start, start + size) for start in range(0, len(contexts), size)]

    def of_block(block):
        found = probabilities_and_logs(problem, parameters, contexts[block])
        p, log_p = (xr.DataArray(each, dims=DIMS) for each in found)
        return function(p, log_p, block)

    return xr.concat(in_threads(of_block, blocks), "context")


def over_steps(
    problem: Problem,
    parameters: Parameters,
    step: Callable[[], tuple[np.ndarray, np.ndarray]],
    n_steps: int,
    function: Callable[[xr.DataArray, xr.DataArray, slice], xr.Dataset],
    *,
    max_bytes: int = BLOCK_BYTES,
) -> xr.Dataset:
    """Summarise next-character probabilities at contexts each of which depends on those before it.

    Parameters
    ----------
    problem, parameters
        As in `next_probabilities`.
    step : callable
        Returns what `probabilities_and_logs` does for one context, the next one.
    n_steps : int
    function, max_bytes
        As in `over_contexts`.

    Returns
    -------
    Dataset (context)
    """
    size = _block_size(problem, parameters, max_bytes)

    def of_block(part):
        steps, block = part
        p, log_p = (
            xr.DataArray(np.concatenate(each, axis=2), dims=DIMS)
            for each in zip(*steps, strict=True)
        )
        return function(p, log_p, block)

    summaries: list[xr.Dataset] = []
    for start in range(0, n_steps, THREADS * size):
        steps = [step() for _ in range(start, min(start + THREADS * size, n_steps))]
        parts = [
            (steps[k : k + size], slice(start + k, start + k + size))
            for k in range(0, len(steps), size)
        ]
        summaries += in_threads(of_block, parts)
    return xr.concat(summaries, "context")


def _block_size(problem, parameters, max_bytes):
    """Number of contexts of a block, so that the blocks of all threads fit into the memory."""
    n_draws = np.prod(parameters["token_embedding"].shape[:2])
    per_context = 8 * n_draws * len(problem.vocabulary) * COPIES
    return max(1, int(max_bytes // per_context // THREADS))


def _next_of_equal_length(stage, parameters, tokens):
    def probabilities(chunk):
        """Probabilities and their logarithms, (draw, 2, context, token)."""
        logits = last_logits(stage, chunk, tokens)
        found = np.empty((len(logits), 2, *logits.shape[1:]))
        softmax_and_log(logits, found[:, 0], found[:, 1])
        return found

    found = over_draws(stage, parameters, tokens, probabilities, last=True)
    return found[:, :, 0], found[:, :, 1]
