"""The null space of the logits: directions of weight space that no prediction depends on.

The centred logits of a set of contexts are a function of the weights. The rank of its Jacobian is
the number of directions that a text can inform. Its null space is the tangent space of the
continuous symmetries and, with ReLU, of the weights of units that are never active. The Jacobian is
computed by complex steps (Squire & Trapp 1998), which are exact to rounding and, unlike finite
differences, do not step across the kinks of the ReLU.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import scipy.linalg

from gptbayes.model.forward import MAX_BYTES, Parameters, position_logits
from gptbayes.model.problem import Problem
from gptbayes.model.simulate import prior_draws
from gptbayes.model.stages import Stage

STEP = 1e-30
"""Imaginary part of a complex step."""
ZERO = 1e-9
"""A singular value below this fraction of the largest may count as zero."""
SHRINK = 0.1
"""Factor on offsets, biases and mean embeddings at the points of `generic_null_dimension`."""
ROWS_PER_COLUMN = 2
"""Rows of the Jacobian per column in `generic_null_dimension`, so that contexts do not limit it."""
MIN_OCCURRENCES = 4
"""Every token occurs at least this often in the contexts of `generic_null_dimension`."""
CLEAR_GAP = 1e3
"""Below this ratio of neighbouring singular values the rank is not clear."""
MAX_PARAMETERS = 3000
"""A Jacobian with more columns takes more than a few minutes and a few gigabytes."""


class NullDimension(NamedTuple):
    """The dimension of the null space of the logits at one point.

    Attributes
    ----------
    n_parameters : int
        P, the number of scalar parameters.
    rank : int
        Of the Jacobian of the centred logits: the number of identifiable parameters.
    null : int
        P - rank.
    gap : float
        Ratio of the smallest nonzero singular value to the largest one that counts as zero, which
        is taken to be no smaller than rounding error. Infinite where none counts as zero.
    """

    n_parameters: int
    rank: int
    null: int
    gap: float

    @property
    def clear(self) -> bool:
        """Whether the gap determines the rank beyond doubt."""
        return self.gap > CLEAR_GAP


def null_dimension(
    stage: Stage, parameters: Parameters, tokens: np.ndarray, *, max_bytes: int = MAX_BYTES
) -> NullDimension:
    """The dimension of the null space at one point, for given contexts.

    Parameters
    ----------
    stage : Stage
    parameters : mapping of str to ndarray
        One draw, each ``(dims of that parameter)``.
    tokens : ndarray of int, (sequence, position)
        Contexts, 0-based. Many different contexts give the rank of the model, those of a text the
        rank that the text can inform.
    max_bytes : int
        Rough bound on the memory of activations; the Jacobian itself is not included.

    Returns
    -------
    NullDimension

    Raises
    ------
    ValueError
        If the model has more than `MAX_PARAMETERS` parameters.
    """
    return _null_dimension(stage, parameters, np.asarray(tokens), None, max_bytes)


def generic_null_dimension(
    problem: Problem, rng: np.random.Generator, *, n_points: int = 2
) -> NullDimension:
    """The dimension of the null space at almost every point.

    A ReLU unit that is active in no context, or in all contexts, adds null directions at that
    point, so that the rank at a point is a lower bound on the generic rank. The result is the
    largest rank over points drawn from the prior with offsets, biases and mean embeddings divided
    by ten. At such points most units are active in some contexts and inactive in others. Contexts
    are random, and enough of them not to limit the rank.

    Parameters
    ----------
    problem : Problem
        Its stage, sizes and priors are used, its text is not.
    rng : numpy.random.Generator
    n_points : int
        Number of points. Stages without a feed-forward layer need one and use one.

    Returns
    -------
    NullDimension
        Of the point with the largest rank.

    Raises
    ------
    ValueError
        As `null_dimension`.
    """
    stage, design = problem.stage, problem.design
    n_parameters = stage.n_parameters(design)
    _check_size(n_parameters)
    tokens = _random_contexts(stage, design, n_parameters, rng)
    n_points = n_points if "feed_forward" in stage.features else 1
    draws = {
        name: _off_centre(name, value)
        for name, value in prior_draws(problem, n_points, rng).items()
    }
    n_outputs = _n_outputs(stage, design)
    combinations = rng.normal(size=(*tokens.shape, design.vocab_size, n_outputs))
    found = []
    for i in range(n_points):
        point = {name: value[i] for name, value in draws.items()}
        found.append(_null_dimension(stage, point, tokens, combinations, MAX_BYTES))
    return max(found, key=lambda each: (each.rank, each.gap))


def logit_jacobian(
    stage: Stage, parameters: Parameters, tokens: np.ndarray, *, max_bytes: int = MAX_BYTES
) -> np.ndarray:
    """The Jacobian of the centred logits of given contexts with respect to the weights.

    Parameters
    ----------
    stage, parameters, tokens, max_bytes
        As for `null_dimension`.

    Returns
    -------
    ndarray, (sequence position token, weight)
        Columns are the parameters flattened, in the order of the stage.

    Raises
    ------
    ValueError
        As `null_dimension`.
    """
    n_parameters = sum(np.size(parameters[p.name]) for p in stage.parameters)
    _check_size(n_parameters)
    return _jacobian(stage, parameters, np.asarray(tokens), n_parameters, max_bytes)


def numerical_rank(values: np.ndarray) -> tuple[int, float]:
    """Number of singular values above the widest gap to rounding noise.

    Parameters
    ----------
    values : ndarray, (value,)
        Singular values, largest first.

    Returns
    -------
    tuple of int and float
        The rank, and the gap as in `NullDimension`.
    """
    noise = values[0] * len(values) * np.finfo(float).eps
    if values[0] == 0:
        return 0, np.inf
    floored = np.maximum(values, noise)
    ratios = floored[:-1] / floored[1:]
    ratios[values[1:] > ZERO * values[0]] = 0
    if not ratios.any():
        return len(values), np.inf
    first_zero = int(np.argmax(ratios)) + 1
    return first_zero, float(ratios[first_zero - 1])


def _n_outputs(stage, design):
    """Number of random combinations of the logits of a context: one more than C, or V if smaller.

    The logits of a context are a function of C numbers. With many contexts this many random
    combinations have the rank of all logits, with far fewer rows.
    """
    return min(design.vocab_size, stage.sizes(design)["embed"] + 1)


def _null_dimension(stage, parameters, tokens, combinations, max_bytes):
    n_parameters = sum(np.size(parameters[p.name]) for p in stage.parameters)
    _check_size(n_parameters)
    jacobian = _jacobian(stage, parameters, tokens, n_parameters, max_bytes, combinations)
    if jacobian.shape[0] > n_parameters:  # R has the same singular values and fewer rows
        (jacobian,) = scipy.linalg.qr(jacobian, mode="r", overwrite_a=True, check_finite=False)
    values = np.zeros(n_parameters)
    found = scipy.linalg.svdvals(jacobian[:n_parameters])
    values[: len(found)] = found
    rank, gap = numerical_rank(values)
    return NullDimension(n_parameters, rank, n_parameters - rank, gap)


def _off_centre(name, value):
    """Shrink the terms that all contexts share, so that few units are always active or never."""
    if name.endswith(("offset", "bias")):
        return SHRINK * value
    if name.endswith("embedding"):
        return value - (1 - SHRINK) * value.mean(axis=-2, keepdims=True)
    return value


def _random_contexts(stage, design, n_parameters, rng):
    """Enough for many more rows than columns, with every token several times."""
    n_token, n_position = design.vocab_size, design.block_size
    n_informative = n_position * max(1, min(n_token, _n_outputs(stage, design)) - 1)
    n_sequences = max(
        math.ceil(ROWS_PER_COLUMN * n_parameters / n_informative),
        math.ceil(MIN_OCCURRENCES * n_token / n_position),
    )
    n_shuffles = math.ceil(n_sequences * n_position / n_token)
    tokens = np.concatenate([rng.permutation(n_token) for _ in range(n_shuffles)])
    return tokens[: n_sequences * n_position].reshape(n_sequences, n_position)


def _jacobian(stage, parameters, tokens, n_parameters, max_bytes, combinations=None):
    """d (centred logits) / d (weights), (sequence position token, weight).

    With ``combinations``, (sequence, position, token, output), of these combinations of the logits.
    """
    shapes = {p.name: np.shape(parameters[p.name]) for p in stage.parameters}
    point = np.concatenate([np.ravel(parameters[name]) for name in shapes])
    n_token, n_embed = parameters["token_embedding"].shape
    n_rows = tokens.size * (n_token if combinations is None else combinations.shape[-1])
    per_column = 16 * tokens.size * (2 * n_token + 20 * n_embed + 4 * tokens.shape[-1])
    size = max(1, int(max_bytes // per_column))
    jacobian = np.empty((n_rows, n_parameters), order="F")
    for start in range(0, n_parameters, size):
        columns = np.arange(start, min(start + size, n_parameters))
        moved = np.tile(point.astype(complex), (len(columns), 1))
        moved[np.arange(len(columns)), columns] += 1j * STEP
        logits = position_logits(stage, _unflatten(moved, shapes), tokens)
        slope = logits.imag / STEP
        slope -= slope.mean(axis=-1, keepdims=True)  # the softmax does not depend on the mean
        if combinations is not None:
            slope = slope[..., None, :] @ combinations  # (weight, B, T, 1, V) @ (B, T, V, output)
        jacobian[:, columns] = slope.reshape(len(columns), n_rows).T
    return jacobian


def _unflatten(flat, shapes):
    values, start = {}, 0
    for name, shape in shapes.items():
        size = int(np.prod(shape))
        values[name] = flat[:, start : start + size].reshape(len(flat), *shape)
        start += size
    return values


def _check_size(n_parameters):
    if n_parameters > MAX_PARAMETERS:
        raise ValueError(
            f"the null space is computed for at most {MAX_PARAMETERS} parameters, "
            f"got {n_parameters}"
        )
