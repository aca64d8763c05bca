"""How many directions of weight space no prediction depends on.

The centred logits of a set of contexts are a function of the weights; its Jacobian has the rank of
what the text can ever learn, and its null space is the tangent of the continuous symmetries (and,
with ReLU, of whatever a unit that is never active has for weights). The Jacobian is taken by
complex steps (Squire & Trapp 1998): exact to rounding, and blind to the kinks of the ReLU, which a
finite difference now and then steps across.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import scipy.linalg

from gptbayes.model.forward import MAX_BYTES, Parameters, forward
from gptbayes.model.problem import Problem
from gptbayes.model.simulate import prior_draws
from gptbayes.model.stages import Stage

STEP = 1e-30
ZERO = 1e-9
"""A singular value that counts as zero is smaller than this share of the largest."""
SHRINK = 0.1
"""Of offsets, biases and mean embeddings at the points of `generic_null_dimension`."""
ROWS_PER_COLUMN = 2
"""Useful rows of the Jacobian in `generic_null_dimension`, so that contexts do not limit it."""
READINGS = 4
"""How often, at least, every token is read in the contexts of `generic_null_dimension`."""
CLEAR_GAP = 1e3
"""Below this ratio the singular values do not say clearly where zero begins."""
MAX_PARAMETERS = 3000
"""A Jacobian of more columns takes more than a few minutes and gigabytes."""


class NullDimension(NamedTuple):
    """The dimension of the null space of the logits at one point.

    Attributes
    ----------
    n_parameters : int
        P, real numbers in a draw.
    rank : int
        Of the Jacobian of the centred logits: the number of identifiable parameters.
    null : int
        P - rank.
    gap : float
        Ratio of the smallest singular value that counts to the largest that counts as zero, in
        which the noise is taken to be no smaller than rounding; infinite where none is zero.
    """

    n_parameters: int
    rank: int
    null: int
    gap: float

    @property
    def clear(self) -> bool:
        """Whether the gap leaves no doubt about the rank."""
        return self.gap > CLEAR_GAP


def null_dimension(
    stage: Stage, parameters: Parameters, tokens: np.ndarray, *, max_bytes: int = MAX_BYTES
) -> NullDimension:
    """The dimension of the null space at one point and some contexts.

    Parameters
    ----------
    stage : Stage
    parameters : mapping of str to ndarray
        One draw, each ``(dims of that parameter)``.
    tokens : ndarray of int, (sequence, position)
        Contexts. The rank is at most that of what they show: many and varied ones give the rank
        of the model, those of a text the rank that this text can see.
    max_bytes : int
        Rough bound on the activations held at any time; the Jacobian itself comes on top.

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
    """The dimension of the null space almost everywhere.

    A unit of the ReLU that no context activates, or that all do, adds null directions at the
    points where that happens, so that each point gives a lower bound on the generic rank. The
    points are draws from the prior with a tenth of its offsets, biases and mean embeddings, at
    which most units are active in some contexts and silent in others, and the largest rank over
    them is taken. Contexts are random, and enough not to limit the rank.

    Parameters
    ----------
    problem : Problem
        Its stage, sizes and priors count, its text does not.
    rng : numpy.random.Generator
    n_points : int
        How many; one is enough for stages without a feed-forward layer, and is what they get.

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
    _refuse_too_many(n_parameters)
    tokens = _random_contexts(stage, design, n_parameters, rng)
    n_points = n_points if "feed_forward" in stage.features else 1
    draws = {
        name: _off_centre(name, value)
        for name, value in prior_draws(problem, n_points, rng).items()
    }
    n_outputs = _n_outputs(stage, design)
    views = rng.normal(size=(*tokens.shape, design.vocab_size, n_outputs))
    found = []
    for i in range(n_points):
        point = {name: value[i] for name, value in draws.items()}
        found.append(_null_dimension(stage, point, tokens, views, MAX_BYTES))
    return max(found, key=lambda each: (each.rank, each.gap))


def logit_jacobian(
    stage: Stage, parameters: Parameters, tokens: np.ndarray, *, max_bytes: int = MAX_BYTES
) -> np.ndarray:
    """Derivative of the centred logits of some contexts with respect to the weights.

    Parameters
    ----------
    stage, parameters, tokens, max_bytes
        As for `null_dimension`.

    Returns
    -------
    ndarray, (sequence position token, weight)
        Weights parameter by parameter, in the order of the stage.

    Raises
    ------
    ValueError
        As `null_dimension`.
    """
    n_parameters = sum(np.size(parameters[p.name]) for p in stage.parameters)
    _refuse_too_many(n_parameters)
    return _jacobian(stage, parameters, np.asarray(tokens), n_parameters, max_bytes)


def numerical_rank(values: np.ndarray) -> tuple[int, float]:
    """Where singular values, largest first, fall to rounding noise: at the widest gap.

    Returns
    -------
    tuple of int and float
        How many count, and the gap as in `NullDimension`.
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
    """How many numbers of a context are looked at: a little more than the stream brings.

    The logits of a context are a map of C numbers. Where there are many contexts, as many random
    combinations of its logits as that show all there is, with far fewer rows.
    """
    return min(design.vocab_size, stage.sizes(design)["embed"] + 1)


def _null_dimension(stage, parameters, tokens, views, max_bytes):
    n_parameters = sum(np.size(parameters[p.name]) for p in stage.parameters)
    _refuse_too_many(n_parameters)
    jacobian = _jacobian(stage, parameters, tokens, n_parameters, max_bytes, views)
    if jacobian.shape[0] > n_parameters:  # same singular values, fewer rows
        (jacobian,) = scipy.linalg.qr(jacobian, mode="r", overwrite_a=True, check_finite=False)
    values = np.zeros(n_parameters)
    found = scipy.linalg.svdvals(jacobian[:n_parameters])
    values[: len(found)] = found
    rank, gap = numerical_rank(values)
    return NullDimension(n_parameters, rank, n_parameters - rank, gap)


def _off_centre(name, value):
    """Shrink what all contexts have in common, which keeps units silent or active in all."""
    if name.endswith(("offset", "bias")):
        return SHRINK * value
    if name.endswith("embedding"):
        return value - (1 - SHRINK) * value.mean(axis=-2, keepdims=True)
    return value


def _random_contexts(stage, design, n_parameters, rng):
    """Enough for many more rows than columns, and for every token to be read several times."""
    n_token, n_position = design.vocab_size, design.block_size
    n_useful = n_position * max(1, min(n_token, _n_outputs(stage, design)) - 1)
    n_sequences = max(
        math.ceil(ROWS_PER_COLUMN * n_parameters / n_useful),
        math.ceil(READINGS * n_token / n_position),
    )
    n_shuffles = math.ceil(n_sequences * n_position / n_token)
    tokens = np.concatenate([rng.permutation(n_token) for _ in range(n_shuffles)])
    return tokens[: n_sequences * n_position].reshape(n_sequences, n_position)


def _jacobian(stage, parameters, tokens, n_parameters, max_bytes, views=None):
    """d (centred logits) / d (weights), (sequence position token, weight).

    With views, (sequence, position, token, view), of these combinations of the logits.
    """
    shapes = {p.name: np.shape(parameters[p.name]) for p in stage.parameters}
    point = np.concatenate([np.ravel(parameters[name]) for name in shapes])
    n_token, n_embed = parameters["token_embedding"].shape
    n_rows = tokens.size * (n_token if views is None else views.shape[-1])
    per_column = 16 * tokens.size * (2 * n_token + 20 * n_embed + 4 * tokens.shape[-1])
    size = max(1, int(max_bytes // per_column))
    jacobian = np.empty((n_rows, n_parameters), order="F")
    for start in range(0, n_parameters, size):
        columns = np.arange(start, min(start + size, n_parameters))
        moved = np.tile(point.astype(complex), (len(columns), 1))
        moved[np.arange(len(columns)), columns] += 1j * STEP
        logits = forward(stage, _unravelled(moved, shapes), tokens).logits
        slope = logits.imag / STEP
        slope -= slope.mean(axis=-1, keepdims=True)  # the softmax takes no notice of the mean
        if views is not None:
            slope = slope[..., None, :] @ views  # (weight, B, T, 1, V) @ (B, T, V, view)
        jacobian[:, columns] = slope.reshape(len(columns), n_rows).T
    return jacobian


def _unravelled(flat, shapes):
    values, start = {}, 0
    for name, shape in shapes.items():
        size = int(np.prod(shape))
        values[name] = flat[:, start : start + size].reshape(len(flat), *shape)
        start += size
    return values


def _refuse_too_many(n_parameters):
    if n_parameters > MAX_PARAMETERS:
        raise ValueError(
            f"the null space is computed for at most {MAX_PARAMETERS} parameters, "
            f"got {n_parameters}"
        )
