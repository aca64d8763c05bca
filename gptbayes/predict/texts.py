"""Posterior predictive text.

Two kinds of text are never mixed. A *coherent* text is written by one posterior draw from
beginning to end: a sample of models. In a *marginal* text every character is drawn from the
posterior mean of the next-character probabilities: no single model ever wrote it.
"""

from __future__ import annotations

import arviz as az
import numpy as np
import xarray as xr

from gptbayes.inference import parameters_of, problem_of
from gptbayes.predict.characters import encode_prompt, next_log_prob
from gptbayes.summary import log_mean_exp

KINDS = ("coherent", "marginal")


def write(
    idata: az.InferenceData,
    prompt: str,
    length: int,
    rng: np.random.Generator,
    *,
    kind: str = "coherent",
    prob: float = 0.9,
    group: str = "posterior",
) -> xr.Dataset:
    """Write text, and say of every character how probable the posterior finds it.

    Parameters
    ----------
    idata : InferenceData
    prompt : str
    length : int
        Characters to write.
    rng : numpy.random.Generator
    kind : {"coherent", "marginal"}
        One draw writes the whole text, or each character is drawn from the posterior mean.
    prob : float
        Mass of the intervals.
    group : {"posterior", "prior"}

    Returns
    -------
    Dataset (new_position)
        ``character``; ``mean``, ``lower`` and ``upper`` of its probability over the posterior,
        given the characters before it, whichever kind wrote it; in ``attrs`` the ``kind``, the
        ``prompt`` and the ``text``.

    Raises
    ------
    ValueError
        For an unusable prompt, length or kind.
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    if length < 1:
        raise ValueError(f"length must be at least 1, got {length}")
    problem = problem_of(idata)
    vocabulary, block_size = problem.vocabulary, problem.design.block_size
    tokens = list(encode_prompt(vocabulary, prompt))
    parameters, sizes = parameters_of(idata, group), idata[group].sizes
    author = rng.integers(sizes["chain"]), rng.integers(sizes["draw"])
    steps = []
    for _ in range(length):
        log_prob = next_log_prob(problem, parameters, np.array(tokens[-block_size:]))
        spoken = log_prob[author] if kind == "coherent" else log_mean_exp(log_prob)
        p = np.exp(spoken.values)
        tokens.append(int(rng.choice(len(vocabulary), p=p / p.sum())))
        steps.append(np.exp(log_prob.isel(token=tokens[-1]).drop_vars("token")))
    text = vocabulary.decode(tokens[-length:])
    summary = _interval(xr.concat(steps, "new_position"), prob)
    summary["character"] = ("new_position", list(text))
    return summary.assign_attrs(kind=kind, prompt=prompt, text=text, prob=prob)


def _interval(probability, prob):
    over = ("chain", "draw")
    tail = (1 - prob) / 2
    return xr.Dataset(
        {
            "mean": probability.mean(over),
            "lower": probability.quantile(tail, over).drop_vars("quantile"),
            "upper": probability.quantile(1 - tail, over).drop_vars("quantile"),
        }
    )
