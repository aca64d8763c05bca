"""The next character: its probabilities, and how uncertain it is for which reason."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import arviz as az
import numpy as np
import xarray as xr
from scipy.fft import next_fast_len
from scipy.special import entr, rel_entr, softmax

from gptbayes.corpus import Vocabulary
from gptbayes.inference import parameters_of, problem_of
from gptbayes.model.forward import CACHE_BYTES, Parameters, last_logits, over_draws
from gptbayes.model.problem import Problem
from gptbayes.stats.summary import ess, mcse_mean, summarise

COPIES = 6
"""Arrays as large as the probabilities that a summary of them needs at the same time."""

BLOCK_BYTES = 64 * 2**20
"""Of them all; larger blocks of contexts are no faster."""


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
        As `gptbayes.stats.summary.summarise`, for each character of the vocabulary.

    Raises
    ------
    ValueError
        If the prompt is empty or has a character that the vocabulary lacks.
    """
    problem = problem_of(idata)
    tokens = encode_prompt(problem.vocabulary, prompt)
    p = next_probabilities(problem, parameters_of(idata, group), [tokens])
    return summarise(p.isel(context=0), prob=prob)


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
    which is estimated from the autocovariances of the draws and added to total and mutual
    information.

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
    problem = problem_of(idata)
    tokens = [encode_prompt(problem.vocabulary, context) for context in contexts]
    split = over_contexts(
        problem, parameters_of(idata, group), tokens, lambda p, _: split_entropy(p)
    )
    return split.assign_coords(context=np.array(contexts, dtype=object))


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


def next_probabilities(
    problem: Problem, parameters: Parameters, contexts: Sequence[np.ndarray] | np.ndarray
) -> xr.DataArray:
    """Probabilities of the next character after some contexts, for every draw.

    Parameters
    ----------
    problem : Problem
    parameters : mapping of str to ndarray
        Each ``(chain, draw, dims of that parameter)``.
    contexts : sequence of ndarray of int, or ndarray of int (context, position)
        The last ``block_size`` tokens of each are read.

    Returns
    -------
    DataArray (chain, draw, context, token)
    """
    stage, block_size = problem.stage, problem.design.block_size
    ends = [context[-block_size:] for context in contexts]
    lengths = np.array([len(end) for end in ends])
    batch = parameters["token_embedding"].shape[:2]
    p = np.empty((*batch, len(ends), len(problem.vocabulary)))
    for length in np.unique(lengths):
        rows = np.flatnonzero(lengths == length)
        p[:, :, rows] = _probabilities(stage, parameters, np.stack([ends[i] for i in rows]))
    coords = {"token": list(problem.vocabulary.characters)}
    return xr.DataArray(p, dims=("chain", "draw", "context", "token"), coords=coords)


def over_contexts(
    problem: Problem,
    parameters: Parameters,
    contexts: Sequence[np.ndarray],
    function: Callable[[xr.DataArray, slice], xr.Dataset],
    *,
    max_bytes: int = BLOCK_BYTES,
) -> xr.Dataset:
    """Summaries of next-character probabilities at many contexts, in bounded memory.

    Parameters
    ----------
    problem, parameters, contexts
        As for `next_probabilities`.
    function : callable
        Takes the probabilities (chain, draw, context, token) of a run of contexts, and which
        ones they are; returns summaries (context).
    max_bytes : int
        Rough bound on what is held at any time.

    Returns
    -------
    Dataset (context)
    """
    n_draws = np.prod(parameters["token_embedding"].shape[:2])
    per_context = 8 * n_draws * len(problem.vocabulary) * COPIES
    size = max(1, int(max_bytes // per_context))
    blocks = [slice(start, start + size) for start in range(0, len(contexts), size)]
    found = [
        function(next_probabilities(problem, parameters, contexts[block]), block)
        for block in blocks
    ]
    return xr.concat(found, "context")


def split_entropy(p: xr.DataArray) -> xr.Dataset:
    """`entropy_split` of probabilities that are there.

    Parameters
    ----------
    p : DataArray (chain, draw, ..., token)

    Returns
    -------
    Dataset (...)
        As `entropy_split`.
    """
    p = p.where(p > np.finfo(float).tiny, 0.0)  # 0 log 0 is 0, and no mean may underflow to 0
    q = p.mean(("chain", "draw"))
    expected = xr.apply_ufunc(entr, p).sum("token")
    information = xr.apply_ufunc(rel_entr, p, q).sum("token")
    series = {
        "total": expected + information,
        "expected": expected,
        "mutual_information": information,
    }
    bias = xr.apply_ufunc(
        _entropy_bias,
        p,
        input_core_dims=[["chain", "draw", "token"]],
        vectorize=True,
    )
    lifted = {"total": bias, "expected": 0.0, "mutual_information": bias}
    bulk = [ess(each, ("bulk",))["ess_bulk"] for each in series.values()]
    return xr.Dataset(
        {
            **{n: each.mean(("chain", "draw")) + lifted[n] for n, each in series.items()},
            **{f"{n}_mcse": mcse_mean(each) for n, each in series.items()},
            "bias": bias,
            "ess_bulk": xr.concat(bulk, "series").min("series"),
        }
    )


def _probabilities(stage, parameters, tokens):
    """After contexts of one length, (chain, draw, context, token)."""

    def probabilities(chunk):
        return softmax(last_logits(stage, chunk, tokens), axis=-1)

    return over_draws(stage, parameters, tokens, probabilities, max_bytes=CACHE_BYTES)


def _entropy_bias(p):
    """By how much the entropy of the mean of (chain, draw, token) is too low: Σ_k Var(q_k) / 2 q_k.

    The variance of a mean is that of the draws over their effective number, from Geyer's initial
    monotone sequence of autocovariances over split chains (Vehtari et al. 2021, section 3.2). Here
    the rule is applied once, to the weighted sum over characters, which is an autocovariance too,
    with less noise than that of each, and in a fraction of the time.
    """
    half = p.shape[1] // 2
    if half < 2:
        return 0.0
    q = p.mean(axis=(0, 1))
    scaled = p[..., q > 0] / np.sqrt(q[q > 0])
    chains = np.concatenate([scaled[:, :half], scaled[:, -half:]])  # (chain, draw, token)
    means = chains.mean(axis=1)
    within = _autocovariances(chains - means[:, None]).mean(axis=0)  # (lag,)
    spread = within[0] + means.var(axis=0, ddof=1).sum()
    if spread == 0:
        return 0.0
    correlation = 1 - (within[0] * half / (half - 1) - within) / spread
    correlation[0] = 1
    pairs = correlation[: half // 2 * 2].reshape(-1, 2).sum(axis=1)
    last = int(np.argmax(pairs < 0)) if (pairs < 0).any() else len(pairs)
    n = chains.shape[0] * half
    n_per_effective = max(2 * np.minimum.accumulate(pairs[:last]).sum() - 1, 1 / np.log10(n))
    return scaled.var(axis=(0, 1)).sum() * n_per_effective / n / 2


def _autocovariances(centred):
    """Of each chain at all lags, summed over characters: (chain, draw, token) to (chain, lag)."""
    n = centred.shape[1]
    power = np.abs(np.fft.rfft(centred, next_fast_len(2 * n), axis=1)) ** 2
    return np.fft.irfft(power.sum(axis=-1), next_fast_len(2 * n), axis=1)[:, :n] / n
