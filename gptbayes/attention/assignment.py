"""Linear assignment of heads to reference patterns, in numpy."""

from __future__ import annotations

from itertools import combinations
from typing import NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment

AMBIGUOUS = 0.1
"""A matching is ambiguous if another one costs less than this fraction more."""
ROUNDING = 1e-5
"""Bound on the relative error of squared distances in single precision."""


class LayerMatching(NamedTuple):
    """The matching of the heads of one layer."""

    order: np.ndarray  # (draw, head)
    ambiguous: np.ndarray  # (draw,)
    reference: np.ndarray  # (head, n)
    kind: np.ndarray  # (head,)
    iterations: int
    converged: bool


def past_mask(n_positions: int) -> np.ndarray:
    """Return a mask of the attention weights that are not constant.

    These are the weights on past and current positions, except those of the first query position,
    which can attend to itself only.

    Parameters
    ----------
    n_positions : int

    Returns
    -------
    ndarray of bool, (query_position, key_position)
    """
    past = np.tri(n_positions, dtype=bool)
    past[0] = False
    return past


def match_layer(
    patterns: np.ndarray, kind: np.ndarray, max_iterations: int, n_positions: int
) -> LayerMatching:
    """Match the heads of one layer by alternating assignment and averaging.

    Parameters
    ----------
    patterns : ndarray of float32, (draw, head, n)
    kind : ndarray of int, (head,)
        Only heads of the same kind are matched with each other.
    max_iterations : int
    n_positions : int
        Length of the contexts.

    Returns
    -------
    LayerMatching
    """
    n_draws, n_head, n = patterns.shape
    flat = patterns.reshape(n_draws * n_head, n)  # n is 0 for contexts of one position
    mean_pattern = patterns.mean(axis=1)
    start = np.argmin(((mean_pattern - mean_pattern.mean(axis=0)) ** 2).sum(axis=-1))
    order = np.full((n_draws, n_head), -1)  # none yet
    reference, iterations, converged = patterns[start], 0, False
    while iterations < max_iterations and not converged:
        iterations += 1
        new_order, ambiguous = assign_heads(reference, patterns, kind, kind)
        converged = np.array_equal(new_order, order)
        order = new_order
        permutation = (order[:, :, None] == np.arange(n_head)).astype(np.float32)  # (draw, i, j)
        reference = np.swapaxes(permutation, 0, 1).reshape(n_head, -1) @ flat / n_draws
    nearest_first = np.argsort(_mean_distance(reference, n_positions), kind="stable")
    order, reference, kind = order[:, nearest_first], reference[nearest_first], kind[nearest_first]
    return LayerMatching(order, ambiguous, reference, kind, iterations, converged)


def assign_heads(
    reference: np.ndarray, patterns: np.ndarray, reference_kind: np.ndarray, kind: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Assign the heads of each draw to reference patterns by squared distance.

    Parameters
    ----------
    reference : ndarray, (head, n)
    patterns : ndarray, (draw, head, n)
    reference_kind, kind : ndarray of int, (head,)
        Heads are assigned to references of the same kind.

    Returns
    -------
    tuple of ndarray
        The order of heads, (draw, head), and whether it is ambiguous, (draw,).
    """
    cost, rounding = _cost(reference, patterns)
    cost = np.where(reference_kind[:, None] == kind, cost, np.inf)
    forbidden = np.isinf(cost[0])
    solvable = np.where(forbidden, 1e6 * (1 + cost[:, ~forbidden].max()), cost)
    order = np.array([linear_sum_assignment(each)[1] for each in solvable])
    return order, _ambiguity(cost, order, rounding)


def _cost(reference, patterns):
    """Squared distance of head j of a draw from head i of the reference, (draw, i, j)."""
    n_draws, n_head, n = patterns.shape
    cross = (reference @ patterns.reshape(n_draws * n_head, n).T).reshape(n_head, n_draws, n_head)
    ours = np.einsum("in,in->i", reference, reference)[:, None]
    theirs = np.einsum("djn,djn->dj", patterns, patterns)[:, None, :]
    squares = (ours + theirs).astype(float)
    cost = np.maximum(squares - 2 * np.swapaxes(cross, 0, 1), 0.0)
    return cost, ROUNDING * squares.max(axis=(1, 2))


def _ambiguity(cost, order, rounding):
    """Whether swapping two heads increases the cost of a draw by less than a tenth, (draw,)."""
    n_head = cost.shape[1]
    if n_head < 2:
        return np.zeros(len(cost), dtype=bool)
    matched = np.take_along_axis(cost, order[:, :, None], axis=2)[..., 0]  # (draw, i)
    draws, extra = np.arange(len(cost)), []
    for i, j in combinations(range(n_head), 2):
        swapped = cost[draws, i, order[:, j]] + cost[draws, j, order[:, i]]
        extra.append(swapped - matched[:, i] - matched[:, j])
    return np.min(extra, axis=0) < AMBIGUOUS * matched.sum(axis=1) + rounding


def _mean_distance(reference, n_positions):
    """Mean distance between query and key position, (head,)."""
    query, key = np.nonzero(past_mask(n_positions))
    weights = reference.reshape(len(reference), -1, len(query)) if len(query) else reference
    return (weights * (query - key)).sum(axis=(1, 2)) if len(query) else np.zeros(len(reference))
