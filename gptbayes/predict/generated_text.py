"""Posterior predictive text.

Two kinds of text are never mixed. A *coherent* text is written by one posterior draw from
beginning to end: a sample of models. In a *marginal* text every character is drawn from the
posterior mean of the next-character probabilities: no single model ever wrote it.
"""

from __future__ import annotations

from typing import NamedTuple

import arviz as az
import numpy as np
import xarray as xr

from gptbayes.corpus import whole_number
from gptbayes.inference import parameters_of, problem_of
from gptbayes.model.simulate import generate_text, sample_tokens
from gptbayes.predict.next_token import (
    encode_prompt,
    next_probabilities,
    over_contexts,
    split_entropy,
)
from gptbayes.stats.summary import mcse_mean

KINDS = ("coherent", "marginal")


class Written(NamedTuple):
    """Texts of one kind.

    Attributes
    ----------
    kind : {"coherent", "marginal"}
    prompt : str
        What they go on from, and do not repeat.
    texts : list of str
        All of the same length.
    chain, draw : ndarray of int, (text,), or None
        Which draw wrote each coherent text; None for marginal ones, which no draw wrote.
    """

    kind: str
    prompt: str
    texts: list[str]
    chain: np.ndarray | None
    draw: np.ndarray | None


def coherent(
    idata: az.InferenceData,
    prompt: str,
    length: int,
    rng: np.random.Generator,
    *,
    n_texts: int = 1,
    group: str = "posterior",
) -> Written:
    """Texts that are each written by one draw of the weights, from beginning to end.

    Parameters
    ----------
    idata : InferenceData
    prompt : str
        The last ``block_size`` characters of it are read.
    length : int
        Characters to write.
    rng : numpy.random.Generator
    n_texts : int
        Each by a draw of its own; where there are more texts than draws, no draw writes more than
        one text more than any other.
    group : {"posterior", "prior"}

    Returns
    -------
    Written

    Raises
    ------
    ValueError
        If the prompt is empty or has a character that the vocabulary lacks, or for a length or
        number of texts below 1.
    """
    _check_positive(length=length, n_texts=n_texts)
    problem = problem_of(idata)
    tokens = encode_prompt(problem.vocabulary, prompt)
    n_chain, n_draw = (idata[group].sizes[dim] for dim in ("chain", "draw"))
    authors = _authors(n_chain * n_draw, n_texts, rng)
    written = generate_text(
        problem.stage,
        _flat(parameters_of(idata, group)),
        tokens,
        length,
        problem.design.block_size,
        rng,
        draw_index=authors,
    )
    chain, draw = np.divmod(authors, n_draw)
    chain, draw = (idata[group][dim].values[at] for dim, at in (("chain", chain), ("draw", draw)))
    texts = [problem.vocabulary.decode(each) for each in written]
    return Written("coherent", prompt, texts, chain, draw)


def marginal(
    idata: az.InferenceData,
    prompt: str,
    length: int,
    rng: np.random.Generator,
    *,
    n_texts: int = 1,
    group: str = "posterior",
) -> Written:
    """Texts in which each character is drawn from the posterior mean of its probabilities.

    The mean is over all draws with equal weights, whatever the text has been so far: the text
    before a character is given, and tells nothing of the weights.

    Parameters
    ----------
    idata, prompt, length, rng, group
        As for `coherent`.
    n_texts : int
        Each character of each takes a forward pass of all draws.

    Returns
    -------
    Written

    Raises
    ------
    ValueError
        As `coherent`.
    """
    _check_positive(length=length, n_texts=n_texts)
    problem, parameters = problem_of(idata), parameters_of(idata, group)
    start = encode_prompt(problem.vocabulary, prompt)[-problem.design.block_size :]
    text = np.empty((n_texts, len(start) + length), dtype=np.int64)
    text[:, : len(start)] = start
    for n in range(len(start), len(start) + length):
        begin = max(0, n - problem.design.block_size)
        contexts, which = np.unique(text[:, begin:n], axis=0, return_inverse=True)
        p = next_probabilities(problem, parameters, contexts).mean(("chain", "draw")).values
        with np.errstate(divide="ignore"):  # what underflows is never drawn
            text[:, n] = sample_tokens(np.log(p)[which.ravel()], rng)
    texts = [problem.vocabulary.decode(each) for each in text[:, len(start) :]]
    return Written("marginal", prompt, texts, None, None)


def score_text(
    idata: az.InferenceData,
    prompt: str,
    text: str,
    *,
    prob: float = 0.9,
    group: str = "posterior",
) -> xr.Dataset:
    """What the posterior says of every character of a text, written by whomever.

    Parameters
    ----------
    idata : InferenceData
    prompt : str
        What comes before the text.
    text : str
        Each of its characters is judged given the ``block_size`` characters before it.
    prob : float
        Mass of the intervals.
    group : {"posterior", "prior"}

    Returns
    -------
    Dataset (new_position)
        ``character``; ``mean``, ``lower``, ``upper`` and ``mcse_mean`` of its probability;
        ``total``, ``expected`` and ``mutual_information`` in nats of the distribution of the
        character at that place, whichever came, their Monte Carlo errors, ``bias`` and
        ``ess_bulk`` as `gptbayes.predict.entropy_split` gives them. In ``attrs``: ``prompt``,
        ``text``, ``prob``. A mode has intervals of no length and Monte Carlo errors that are nan.

    Raises
    ------
    ValueError
        If prompt or text is empty or has a character that the vocabulary lacks, or ``prob`` is
        not between 0 and 1.
    """
    if not 0 < prob < 1:
        raise ValueError(f"prob must be between 0 and 1, got {prob}")
    if not text:
        raise ValueError("a text to score needs at least one character, got an empty one")
    problem = problem_of(idata)
    tokens = np.concatenate(
        [encode_prompt(problem.vocabulary, prompt), problem.vocabulary.encode(text)]
    )
    start = len(tokens) - len(text)
    block_size = problem.design.block_size
    contexts = [tokens[max(0, n - block_size) : n] for n in range(start, len(tokens))]

    def judged(p, block):
        came = xr.DataArray(tokens[start:][block], dims="context")
        return split_entropy(p).merge(_interval(p.isel(token=came).drop_vars("token"), prob))

    summary = over_contexts(problem, parameters_of(idata, group), contexts, judged)
    summary = summary.rename(context="new_position")
    summary["character"] = ("new_position", np.array(list(text), dtype=object))
    return summary.assign_attrs(prompt=prompt, text=text, prob=prob)


def generate(
    idata: az.InferenceData,
    prompt: str,
    length: int,
    rng: np.random.Generator,
    *,
    kind: str = "coherent",
    prob: float = 0.9,
    group: str = "posterior",
) -> xr.Dataset:
    """Write one text, and say what the posterior thinks of every character.

    Parameters
    ----------
    idata, prompt, length, rng, group
        As for `coherent`.
    kind : {"coherent", "marginal"}
        One draw writes the whole text, or each character is drawn from the posterior mean.
    prob : float
        Mass of the intervals.

    Returns
    -------
    Dataset (new_position)
        As `score_text`, whichever kind wrote it; in ``attrs`` also the ``kind``.

    Raises
    ------
    ValueError
        For an unusable prompt, length or kind.
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    writer = coherent if kind == "coherent" else marginal
    (text,) = writer(idata, prompt, length, rng, group=group).texts
    return score_text(idata, prompt, text, prob=prob, group=group).assign_attrs(kind=kind)


def _authors(n_draws, n_texts, rng):
    """Without replacement while there are draws, then all over again."""
    rounds = [rng.permutation(n_draws) for _ in range(-(-n_texts // n_draws))]
    return np.concatenate(rounds)[:n_texts]


def _flat(parameters):
    """Draws of all chains in a row: ``(chain draw, dims)``."""
    return {name: value.reshape(-1, *value.shape[2:]) for name, value in parameters.items()}


def _check_positive(**values):
    for name, value in values.items():
        whole_number(name, value)


def _interval(probability, prob):
    over = ("chain", "draw")
    tail = (1 - prob) / 2
    return xr.Dataset(
        {
            "mean": probability.mean(over),
            "lower": probability.quantile(tail, over).drop_vars("quantile"),
            "upper": probability.quantile(1 - tail, over).drop_vars("quantile"),
            "mcse_mean": mcse_mean(probability),
        }
    )
