"""Attention weights of every draw, and their summaries."""

from __future__ import annotations

import arviz as az
import numpy as np
import xarray as xr

from gptbayes.attention.matching import match_heads
from gptbayes.forward import forward, over_draws
from gptbayes.inference import parameters_of, problem_of
from gptbayes.summary import summarise


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
