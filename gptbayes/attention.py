"""Where the model looks: the posterior of attention weights at real contexts.

The posterior does not tell heads apart: every draw may list them in another order. Weights are
averaged over draws only after the heads have been matched by what they do on the same contexts.
"""

from __future__ import annotations

from itertools import combinations
from typing import NamedTuple

import arviz as az
import numpy as np
import xarray as xr
from scipy.optimize import linear_sum_assignment

from gptbayes.forward import forward, over_draws
from gptbayes.inference import parameters_of, problem_of
from gptbayes.summary import summarise

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


def attention_draws(
    idata: az.InferenceData, contexts: np.ndarray, *, group: str = "posterior"
) -> xr.DataArray:
    """Attention weights of every draw at some contexts, heads in each draw's own order.

    Parameters
    ----------
    idata : InferenceData
    contexts : ndarray of int, (sequence, position)
        0-based tokens.
    group : {"posterior", "prior"}

    Returns
    -------
    DataArray (chain, draw, layer, head, sequence, query_position, key_position)

    Raises
    ------
    ValueError
        For a stage without attention.
    """
    problem = problem_of(idata)
    if "attention" not in problem.stage.features:
        raise ValueError(f"stage {problem.stage.number} has no attention, stages 04 to 12 have")

    def weights(chunk):
        return forward(problem.stage, chunk, contexts).attention

    values = over_draws(problem.stage, parameters_of(idata, group), contexts, weights)
    dims = ("layer", "head", "sequence", "query_position", "key_position")
    return xr.DataArray(
        values,
        dims=("chain", "draw", *dims),
        coords={name: idata[group][name] for name in ("chain", "draw")},
        name="attention",
    )


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


def summarise_attention(
    idata: az.InferenceData, contexts: np.ndarray, *, prob: float = 0.9
) -> xr.Dataset:
    """Mean, sd and interval of every attention weight, after matching heads.

    Parameters
    ----------
    idata : InferenceData
    contexts : ndarray of int, (sequence, position)
        0-based tokens; the same contexts match the heads.
    prob : float
        Mass of the intervals.

    Returns
    -------
    Dataset (layer, head, sequence, query_position, key_position)
        As `gptbayes.summary.summarise`; ``ambiguous`` (layer) as in `Matched`; coord ``text``
        (sequence) holds the contexts. Weights on the future are 0 and the first position's
        weight on itself is 1, without uncertainty, by construction.
    """
    matched = match_heads(attention_draws(idata, contexts))
    vocabulary = problem_of(idata).vocabulary
    text = [vocabulary.decode(context) for context in contexts]
    summary = summarise(matched.weights, prob=prob)
    return summary.assign(ambiguous=matched.ambiguous).assign_coords(text=("sequence", text))


def attention_back(weights: xr.DataArray, distance: int) -> xr.DataArray:
    """Attention to the character some positions back, beyond what uniform attention gives it.

    Parameters
    ----------
    weights : DataArray (..., query_position, key_position)
    distance : int
        0 for the position itself, 1 for the previous character.

    Returns
    -------
    DataArray (...)
        Mean over the query positions, from the second on, that have such a character; 0 for a
        head that looks everywhere alike.

    Raises
    ------
    ValueError
        If no position has one.
    """
    n = weights.sizes["query_position"]
    first = max(1, distance)
    if not 0 <= distance < n or first >= n:
        raise ValueError(f"distance must be between 0 and {n - 1}, got {distance}")
    query = xr.DataArray(np.arange(first, n), dims="query_position")
    attended = weights.isel(query_position=query, key_position=query - distance)
    return (attended - 1 / (query + 1)).mean("query_position")


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
