"""Which heads of different draws do the same."""

from __future__ import annotations

from itertools import combinations
from typing import NamedTuple

import numpy as np
import xarray as xr
from scipy.optimize import linear_sum_assignment

AMBIGUOUS = 0.1
"""A matching is ambiguous if another costs less than a tenth more."""


class Matched(NamedTuple):
    """Attention weights with heads that mean the same in every draw, as far as that can be.

    Attributes
    ----------
    weights : DataArray (chain, draw, layer, head, sequence, query_position, key_position)
    order : DataArray of int (chain, draw, layer, head)
        Which head of a draw plays the part of each matched head.
    ambiguous : DataArray (layer)
        Share of draws in which another matching costs less than a tenth more. Near one, heads
        are exchangeable and overlap: no head has a name.
    """

    weights: xr.DataArray
    order: xr.DataArray
    ambiguous: xr.DataArray


def match_heads(weights: xr.DataArray, *, max_iterations: int = 50) -> Matched:
    """Match heads across draws and chains by their attention weights.

    Linear assignment of each draw's heads to the mean of the matched draws, to a fixed point.

    Parameters
    ----------
    weights : DataArray (chain, draw, layer, head, sequence, query_position, key_position)
    max_iterations : int

    Returns
    -------
    Matched
    """
    sizes = weights.sizes
    n_draws = sizes["chain"] * sizes["draw"]
    patterns = weights.values.reshape(n_draws, sizes["layer"], sizes["head"], -1)
    order = np.empty(patterns.shape[:3], dtype=np.int64)
    ambiguous = np.empty(sizes["layer"])
    for layer in range(sizes["layer"]):
        order[:, layer], ambiguous[layer] = _match_layer(patterns[:, layer], max_iterations)
    dims = ("chain", "draw", "layer", "head")
    order = xr.DataArray(
        order.reshape(tuple(sizes[dim] for dim in dims)),
        dims=dims,
        coords={dim: weights[dim] for dim in ("chain", "draw")},
    )
    return Matched(weights.isel(head=order), order, xr.DataArray(ambiguous, dims="layer"))


def _match_layer(patterns, max_iterations):
    """Order of heads (draw, head) and share of ambiguous draws, from patterns (draw, head, n)."""
    centre = np.median(patterns.mean(axis=1), axis=0)
    start = np.argmin(((patterns.mean(axis=1) - centre) ** 2).sum(axis=-1))
    reference = patterns[start]
    order = np.full(patterns.shape[:2], -1)
    for _ in range(max_iterations):
        cost = _cost(reference, patterns)
        new_order = np.array([linear_sum_assignment(each)[1] for each in cost])
        reference = np.take_along_axis(patterns, new_order[:, :, None], axis=1).mean(axis=0)
        if np.array_equal(new_order, order):
            break
        order = new_order
    return order, _ambiguity(_cost(reference, patterns), order)


def _cost(reference, patterns):
    """Squared distance of head j of a draw from head i of the reference, (draw, i, j)."""
    cross = np.einsum("in,djn->dij", reference, patterns)
    squares = (reference**2).sum(axis=-1)[:, None] + (patterns**2).sum(axis=-1)[:, None, :]
    return np.maximum(squares - 2 * cross, 0.0)


def _ambiguity(cost, order):
    """Share of draws where swapping two heads costs less than a tenth more."""
    n_head = cost.shape[1]
    if n_head < 2:
        return 0.0
    matched = np.take_along_axis(cost, order[:, :, None], axis=2)[..., 0]  # (draw, i)
    best = matched.sum(axis=1)
    extra = []
    for i, j in combinations(range(n_head), 2):
        draws = np.arange(len(cost))
        swapped = cost[draws, i, order[:, j]] + cost[draws, j, order[:, i]]
        extra.append(swapped - matched[:, i] - matched[:, j])
    return float((np.min(extra, axis=0) < AMBIGUOUS * best).mean())
