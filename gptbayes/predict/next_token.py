"""Posterior of next-character probabilities, and the decomposition of their entropy."""

from __future__ import annotations

from collections.abc import Sequence

import arviz as az
import numpy as np
import xarray as xr
from scipy.fft import next_fast_len

from gptbayes.corpus import Vocabulary
from gptbayes.inference import parameters_of, problem_of
from gptbayes.predict.context_probabilities import next_probabilities, over_contexts
from gptbayes.stats import mcmc
from gptbayes.stats.summary import OVER, summarise


def next_character(
    idata: az.InferenceData, prompt: str, *, prob: float = 0.9, group: str = "posterior"
) -> xr.Dataset:
    """Summarise the posterior of the probabilities of the next character.

    Parameters
    ----------
    idata : InferenceData
    prompt : str
        The context is its last ``block_size`` characters.
    prob : float
        Mass of the intervals.
    group : {"posterior", "prior"}

    Returns
    -------
    Dataset (token)
        As of `gptbayes.stats.summary.summarise`, for each character of the vocabulary.

    Raises
    ------
    ValueError
        If the prompt is empty or contains a character that is not in the vocabulary.

    See Also
    --------
    entropy_split : Entropy of the next character.
    generate : Generate text.
    gptbayes.plots.plot_next_character : The figure.

    Examples
    --------
    >>> import tempfile
    >>> import gptbayes as gb
    >>> problem = gb.make_problem(gb.stage("01"), gb.zen_of_python(), batch_size=11)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     idata = gb.open_run(gb.fit.prior(problem, folder, draws=20))
    >>> summary = next_character(idata, "Now is bette")
    >>> round(float(summary["mean"].sum()), 6)
    1.0
    """
    problem = problem_of(idata)
    tokens = encode_prompt(problem.vocabulary, prompt)
    p = next_probabilities(problem, parameters_of(idata, group), [tokens])
    return summarise(p.isel(context=0), prob=prob)


def entropy_split(
    idata: az.InferenceData, contexts: str | Sequence[str], *, group: str = "posterior"
) -> xr.Dataset:
    """Decompose the entropy of the next character into aleatoric and epistemic uncertainty.

    With p the probabilities under one draw and q their posterior mean,

        H(q) = E[H(p)] + E[KL(p || q)].

    The first term is the expected entropy given the weights (aleatoric). The second is the mutual
    information of the character and the weights (epistemic; Depeweg et al. 2018, section 3).

    Parameters
    ----------
    idata : InferenceData
    contexts : str or sequence of str
        The last ``block_size`` characters of each are used.
    group : {"posterior", "prior"}

    Returns
    -------
    Dataset (context)
        ``total``, ``expected`` and ``mutual_information`` in nats; their Monte Carlo standard
        errors ``total_mcse``, ``expected_mcse`` and ``mutual_information_mcse``; ``bias``, the
        correction for the finite number of draws that ``total`` and ``mutual_information``
        include; ``ess_bulk``, the smallest of the three. If the bias is not small compared with
        the mutual information, more draws are needed. For a single point the mutual information is
        0. With fewer than four draws Monte Carlo errors are nan and the bias is 0.

    Raises
    ------
    ValueError
        If a context is empty or contains a character that is not in the vocabulary.

    See Also
    --------
    score_text : The same for each character of a text.
    gptbayes.validate.conjugate_bigram.entropy_split : In closed form.

    Notes
    -----
    Each term is the mean over draws of a series: -Σ_k p_k log q_k, H(p) and KL(p || q). Its Monte
    Carlo error is that of the estimate, because to first order the error of q does not change the
    entropy (delta method). To second order H(q) is too small by Σ_k Var(q_k) / (2 q_k) (Miller
    1955), which is estimated from the autocovariances of the draws.

    Examples
    --------
    >>> import tempfile
    >>> import gptbayes as gb
    >>> problem = gb.make_problem(gb.stage("01"), gb.zen_of_python(), batch_size=11)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     idata = gb.open_run(gb.fit.prior(problem, folder, draws=20))
    >>> split = entropy_split(idata, ["a", "b"])
    >>> bool(np.allclose(split["total"], split["expected"] + split["mutual_information"]))
    True
    """
    contexts = [contexts] if isinstance(contexts, str) else list(contexts)
    problem = problem_of(idata)
    tokens = [encode_prompt(problem.vocabulary, context) for context in contexts]
    split = over_contexts(
        problem, parameters_of(idata, group), tokens, lambda p, log_p, _: split_entropy(p, log_p)
    )
    return split.assign_coords(context=np.array(contexts, dtype=object))


def encode_prompt(vocabulary: Vocabulary, prompt: str) -> np.ndarray:
    """Encode a prompt.

    Parameters
    ----------
    vocabulary : gptbayes.corpus.Vocabulary
    prompt : str

    Returns
    -------
    ndarray of int, (prompt_position,)
        0-based tokens.

    Raises
    ------
    ValueError
        If the prompt is empty or contains a character that is not in the vocabulary.
    """
    if not prompt:
        raise ValueError("prompt must have at least one character, got an empty one")
    return vocabulary.encode(prompt)


def split_entropy(p: xr.DataArray, log_p: xr.DataArray | None = None) -> xr.Dataset:
    """Decompose the entropy of given probabilities, see `entropy_split`.

    Parameters
    ----------
    p : DataArray (chain, draw, ..., token)
    log_p : DataArray, as ``p``, optional
        Their logarithms, if they are known. They are overwritten.

    Returns
    -------
    Dataset (...)
        As of `entropy_split`.
    """
    dims = [dim for dim in p.dims if dim not in (*OVER, "token")]
    values = p.transpose(*OVER, *dims, "token").values
    if log_p is None or values.shape[:2] == (1, 1):  # the information of one draw is exactly 0
        logs = _log(values)
    else:
        logs = log_p.transpose(*OVER, *dims, "token").values
    expected = -np.einsum("...k,...k->...", values, logs)  # 0 log 0 is 0
    mean = values.mean(axis=(0, 1))
    logs -= _log(mean)
    information = np.einsum("...k,...k->...", values, logs)
    series = np.stack([expected + information, expected, information])
    found = mcmc.statistics(
        np.moveaxis(series, 0, 2), ["mean", "sd", "ess_mean", "ess_bulk"]
    )  # each (series, ...)
    mcse = found["sd"] / np.sqrt(found["ess_mean"])
    bias = np.empty(values.shape[2:-1])
    for place in np.ndindex(bias.shape):
        bias[place] = _entropy_bias(values[(slice(None), slice(None), *place)], mean[place])
    correction = {"total": bias, "expected": 0.0, "mutual_information": bias}
    columns = {"bias": bias, "ess_bulk": found["ess_bulk"].min(axis=0)}
    for name, value, error in zip(correction, found["mean"], mcse, strict=True):
        columns |= {name: value + correction[name], f"{name}_mcse": error}
    coords = {name: each for name, each in p.coords.items() if {*each.dims} <= {*dims}}
    return xr.Dataset({name: (dims, each) for name, each in columns.items()}, coords)


def _log(p):
    """Logarithms, finite where a probability is zero."""
    return np.log(np.maximum(p, np.finfo(float).tiny))


def _entropy_bias(p, q):
    """Bias of the entropy of q, the mean of p (chain, draw, token), Σ_k Var(q_k) / (2 q_k).

    The variance of a mean is the variance of the draws divided by the effective sample size, from
    Geyer's initial monotone sequence of autocovariances over split chains (Vehtari et al. 2021,
    section 3.2). Here the rule is applied once, to the weighted sum over characters. This sum is an
    autocovariance too; it is less noisy than that of each character, and faster.
    """
    half = p.shape[1] // 2
    if half < 2:
        return 0.0
    scale = np.divide(1, np.sqrt(q), out=np.zeros(q.shape), where=q > 0)
    scaled = (p - q) * scale
    chains = np.zeros((2 * len(p), len(q), next_fast_len(2 * half)))  # room for the transform
    chains[: len(p), :, :half] = scaled[:, :half].swapaxes(1, 2)
    chains[len(p) :, :, :half] = scaled[:, -half:].swapaxes(1, 2)
    means = chains[..., :half].mean(axis=-1)  # (chain, token)
    chains[..., :half] -= means[..., None]
    within = _mean_autocovariances(chains, half)  # (lag,)
    spread = within[0] + means.var(axis=0, ddof=1).sum()
    if spread == 0:
        return 0.0
    correlation = 1 - (within[0] * half / (half - 1) - within) / spread
    correlation[0] = 1
    pairs = correlation[: half // 2 * 2].reshape(-1, 2).sum(axis=1)
    last = int(np.argmax(pairs < 0)) if (pairs < 0).any() else len(pairs)
    n = len(chains) * half
    n_per_effective = max(2 * np.minimum.accumulate(pairs[:last]).sum() - 1, 1 / np.log10(n))
    variance = np.einsum("cdk,cdk->", scaled, scaled) / (p.shape[0] * p.shape[1])
    return variance * n_per_effective / n / 2


def _mean_autocovariances(centred, n):
    """Autocovariances of (chain, token, n draws and zeros), summed over tokens, mean over chains.

    At all lags, (lag,).
    """
    parts = np.fft.rfft(centred).view(float)  # real and imaginary parts in turn
    squares = np.einsum("ctf,ctf->f", parts, parts)
    power = squares[::2] + squares[1::2]
    return np.fft.irfft(power, centred.shape[-1])[:n] / (n * len(centred))
