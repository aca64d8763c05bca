"""Attention weights in the form that BertViz and CircuitsVis read."""

from __future__ import annotations

from typing import Any

import arviz as az
import numpy as np
import xarray as xr

from gptbayes.attention.contexts import checked_contexts, draws_of, problem_with_attention
from gptbayes.attention.matching import Matching, head_order, reordered
from gptbayes.attention.patterns import summarise_attention
from gptbayes.corpus import visible
from gptbayes.model.forward import attention_of
from gptbayes.stats.thinning import evenly_spaced

N_DRAWS = 4
"""Default number of single draws."""
DIGITS = 4
"""Decimals of each weight."""


def attention_views(
    idata: az.InferenceData,
    contexts: np.ndarray,
    *,
    matching: Matching | None = None,
    summary: xr.Dataset | None = None,
    n_draws: int = N_DRAWS,
    prob: float = 0.9,
) -> list[dict[str, Any]]:
    """Attention weights of some contexts as nested lists, for JSON.

    Parameters
    ----------
    idata : InferenceData
    contexts : ndarray of int, (sequence, position)
        0-based tokens.
    matching : Matching, optional
        By default that of `head_order`.
    summary : Dataset, optional
        Of these contexts, as of `summarise_attention`, if it has been computed already.
    n_draws : int
        Number of single draws, evenly spaced, with heads matched.
    prob : float
        Mass of the intervals.

    Returns
    -------
    list of dict
        One for each context. ``tokens`` is a list of str. ``views`` has the nested lists
        [layer][head][query position][key position] "mean", "lower" and "upper", and one for each
        single draw, such as "chain 1, draw 500". The ends of intervals are those of single
        weights: their rows do not sum to one.

    Raises
    ------
    ValueError
        If the stage has no attention, contexts have an invalid shape, or ``n_draws`` is negative.

    Notes
    -----
    With ``view = views["mean"]``, BertViz shows ``head_view([torch.tensor(layer)[None] for layer in
    view], tokens)``, and CircuitsVis the heads of a layer with
    ``attention.attention_heads(np.array(view[0]), tokens)``.

    Examples
    --------
    >>> import tempfile
    >>> import gptbayes as gb
    >>> problem = gb.make_problem(gb.stage("05"), gb.zen_of_python(), batch_size=11)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     idata = gb.open_run(gb.fit.prior(problem, folder, draws=20))
    >>> (one,) = attention_views(idata, problem.held_out.x[:1], n_draws=1)
    >>> np.shape(one["views"]["mean"]) == (1, 2, len(one["tokens"]), len(one["tokens"]))
    True
    """
    if n_draws < 0:
        raise ValueError(f"n_draws must not be negative, got {n_draws}")
    problem = problem_with_attention(idata)
    contexts = checked_contexts(problem, contexts)
    matching = head_order(idata) if matching is None else matching
    if summary is None:
        summary = summarise_attention(idata, contexts, matching=matching, prob=prob)
    names = ("mean", "lower", "upper")
    views = {
        name: summary[name].transpose("sequence", "layer", "head", ...).values for name in names
    }
    views |= _single_draws(idata, problem.stage, contexts, matching, n_draws)
    decode = problem.vocabulary.decode
    return [
        {
            "tokens": [visible(character) for character in decode(context)],
            "views": {name: values[k].round(DIGITS).tolist() for name, values in views.items()},
        }
        for k, context in enumerate(contexts)
    ]


def _single_draws(idata, stage, contexts, matching, n_draws):
    """Weights (sequence, layer, head, query_position, key_position) of single draws, by name."""
    order = matching.order.values  # (chain, draw, layer, head)
    n_chain, n_draw = order.shape[:2]
    total = n_chain * n_draw
    chosen = evenly_spaced(total, n_draws)
    found = {}
    for index in chosen:
        chain, draw = divmod(int(index), n_draw)
        parameters = {
            name: values[chain, draw] for name, values in draws_of(idata, "posterior").items()
        }
        weights = attention_of(stage, parameters, contexts)
        matched = reordered(weights, order[chain, draw])  # (layer, head, sequence, query, key)
        found[f"chain {chain + 1}, draw {draw + 1}"] = np.moveaxis(matched, 2, 0)
    return found
