"""The next character: its probabilities, and how uncertain it is for which reason."""

from __future__ import annotations

from collections.abc import Sequence

import arviz as az
import numpy as np
import xarray as xr
from scipy.special import entr, rel_entr

from gptbayes.corpus import Vocabulary
from gptbayes.inference import parameters_of, problem_of
from gptbayes.simulate import next_token_log_prob
from gptbayes.summary import summarise


def next_character(
    idata: az.InferenceData, prompt: str, *, prob: float = 0.9, group: str = "posterior"
) -> xr.Dataset:
    """The posterior of the probabilities of the next character.

    Parameters
    ----------
    idata : InferenceData
    prompt : str
        The last ``block_size`` characters of it are read.
    prob : float
        Mass of the interval.
    group : {"posterior", "prior"}

    Returns
    -------
    Dataset (token)
        As `gptbayes.summary.summarise`, for each character of the vocabulary.

    Raises
    ------
    ValueError
        If the prompt is empty or has a character that the vocabulary lacks.
    """
    problem = problem_of(idata)
    tokens = encode_prompt(problem.vocabulary, prompt)[-problem.design.block_size :]
    log_prob = next_log_prob(problem, parameters_of(idata, group), tokens)
    return summarise(np.exp(log_prob), prob=prob)


def entropy_split(
    idata: az.InferenceData, contexts: str | Sequence[str], *, group: str = "posterior"
) -> xr.Dataset:
    """How uncertain the next character is, and how much of that is not knowing the model.

    With p the probabilities of one draw and q their posterior mean,

        H(q) = E[H(p)] + E[KL(p || q)]

    splits the total entropy into what would be left if the weights were known (aleatoric) and the
    mutual information of character and weights (epistemic; Depeweg et al. 2018, section 3). Each
    is the mean over draws of a series, of -Σ p log q, H(p) and KL(p || q), whose Monte Carlo
    error is also that of the estimate: to first order the error of q drops out of the entropy
    (delta method). To second order it makes H(q) too low by Σ_k Var(q_k) / (2 q_k) (Miller 1955),
    which is estimated from the Monte Carlo errors of q and added to total and mutual information.

    Parameters
    ----------
    idata : InferenceData
    contexts : str or sequence of str
        The last ``block_size`` characters of each are read.
    group : {"posterior", "prior"}

    Returns
    -------
    Dataset (context)
        ``total``, ``expected``, ``mutual_information`` in nats, ``total_mcse``,
        ``expected_mcse``, ``mutual_information_mcse``; ``bias``, what was added; ``ess_bulk``,
        the smallest of the three series. A bias that is not small beside the mutual information
        says that there are too few draws. A single point has mutual information 0. For fewer
        than four draws Monte Carlo errors are nan, and nothing is added.

    Raises
    ------
    ValueError
        If a context is empty or has a character that the vocabulary lacks.
    """
    contexts = [contexts] if isinstance(contexts, str) else list(contexts)
    problem, parameters = problem_of(idata), parameters_of(idata, group)
    splits = []
    for context in contexts:
        tokens = encode_prompt(problem.vocabulary, context)[-problem.design.block_size :]
        splits.append(_entropy_split(next_log_prob(problem, parameters, tokens)))
    names = xr.DataArray(np.array(contexts, dtype=object), dims="context", name="context")
    return xr.concat(splits, names)


def encode_prompt(vocabulary: Vocabulary, prompt: str) -> np.ndarray:
    """Tokens of a prompt.

    Raises
    ------
    ValueError
        If it is empty or has a character that the vocabulary lacks.
    """
    if not prompt:
        raise ValueError("a prompt needs at least one character, got an empty one")
    return vocabulary.encode(prompt)


def next_log_prob(problem, parameters, context):
    """Log probabilities after a context, (chain, draw, token)."""
    batch = parameters["token_embedding"].shape[:2]
    flat = {name: value.reshape(-1, *value.shape[2:]) for name, value in parameters.items()}
    log_prob = next_token_log_prob(problem.stage, flat, context)
    return xr.DataArray(
        log_prob.reshape(*batch, -1),
        dims=("chain", "draw", "token"),
        coords={"token": list(problem.vocabulary.characters)},
    )


def _entropy_split(log_prob):
    """`entropy_split` at one context, from log probabilities (chain, draw, token)."""
    p = np.exp(log_prob)
    p = p.where(p > np.finfo(float).tiny, 0.0)  # 0 log 0 is 0, and no mean may underflow to 0
    mean = summarise(p)
    q = mean["mean"]
    expected = xr.apply_ufunc(entr, p).sum("token")
    information = xr.apply_ufunc(rel_entr, p, q).sum("token")
    series = {
        "total": expected + information,
        "expected": expected,
        "mutual_information": information,
    }
    summaries = {name: summarise(each) for name, each in series.items()}
    bias = (mean["mcse_mean"] ** 2 / (2 * q)).where(mean["sd"] > 0, 0.0).sum("token")
    lifted = {"total": bias, "expected": 0.0, "mutual_information": bias}
    return xr.Dataset(
        {
            **{name: each["mean"] + lifted[name] for name, each in summaries.items()},
            **{f"{name}_mcse": each["mcse_mean"] for name, each in summaries.items()},
            "bias": bias,
            "ess_bulk": xr.concat([s["ess_bulk"] for s in summaries.values()], "s").min("s"),
        }
    )
