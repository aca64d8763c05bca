"""What the model says next: posterior predictive text and held-out predictive density.

Two kinds of text are never mixed. A *coherent* text is written by one posterior draw from
beginning to end: a sample of models. In a *marginal* text every character is drawn from the
posterior mean of the next-character probabilities: no single model ever wrote it.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import arviz as az
import numpy as np
import xarray as xr
from scipy.special import entr, rel_entr

from gptbayes.corpus import Vocabulary
from gptbayes.forward import token_log_prob
from gptbayes.inference import parameters_of, problem_of
from gptbayes.simulate import next_token_log_prob
from gptbayes.summary import PARETO_K_LIMIT, ess, log_mean_exp, summarise

KINDS = ("coherent", "marginal")


class Comparison(NamedTuple):
    """How well fits predict held-out text, each against the first.

    Attributes
    ----------
    table : Dataset (fit)
        ``elpd`` is the sum over held-out sequences of the log predictive density, in nats, and
        ``se`` its standard error over sequences; ``per_character`` and ``per_character_se`` are
        both divided by the number of characters; ``difference`` is to the first fit, with
        ``difference_se`` from paired differences; ``mcse`` is the Monte Carlo error of ``elpd``.
    pointwise : DataArray (fit, held_out_sequence)
        In nats.
    """

    table: xr.Dataset
    pointwise: xr.DataArray


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
    log_prob = _next_log_prob(problem, parameters_of(idata, group), tokens)
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
        splits.append(_entropy_split(_next_log_prob(problem, parameters, tokens)))
    names = xr.DataArray(np.array(contexts, dtype=object), dims="context", name="context")
    return xr.concat(splits, names)


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
        log_prob = _next_log_prob(problem, parameters, np.array(tokens[-block_size:]))
        spoken = log_prob[author] if kind == "coherent" else log_mean_exp(log_prob)
        p = np.exp(spoken.values)
        tokens.append(int(rng.choice(len(vocabulary), p=p / p.sum())))
        steps.append(np.exp(log_prob.isel(token=tokens[-1]).drop_vars("token")))
    text = vocabulary.decode(tokens[-length:])
    summary = _interval(xr.concat(steps, "new_position"), prob)
    summary["character"] = ("new_position", list(text))
    return summary.assign_attrs(kind=kind, prompt=prompt, text=text, prob=prob)


def held_out_log_prob(idata: az.InferenceData) -> xr.DataArray:
    """Log probability of every held-out character, for every draw.

    Parameters
    ----------
    idata : InferenceData

    Returns
    -------
    DataArray (chain, draw, held_out_sequence, position)
        In nats.
    """
    problem = problem_of(idata)
    values = token_log_prob(problem.stage, parameters_of(idata), problem.held_out)
    dims = ("chain", "draw", "held_out_sequence", "position")
    coords = {name: idata.posterior[name] for name in ("chain", "draw")}
    return xr.DataArray(values, dims=dims, coords=coords, name="log_prob")


def compare_held_out(fits: Mapping[str, az.InferenceData]) -> Comparison:
    """Compare fits by the log predictive density of the same held-out sequences.

    The unit is the sequence: log of the posterior mean of the probability of all its characters.

    Parameters
    ----------
    fits : mapping of str to InferenceData
        Of the same text and windows; the first is what the others are compared to.

    Returns
    -------
    Comparison

    Raises
    ------
    ValueError
        If there are no fits or the fits have different held-out text.
    """
    if not fits:
        raise ValueError("compare_held_out needs at least one fit")
    windows = [problem_of(idata).held_out for idata in fits.values()]
    if not all(np.array_equal(windows[0].y, each.y) for each in windows):
        raise ValueError(f"fits must have the same held-out text: {', '.join(fits)}")
    densities = {name: held_out_log_prob(idata).sum("position") for name, idata in fits.items()}
    names = xr.DataArray(list(fits), dims="fit", name="fit")
    pointwise = xr.concat([log_mean_exp(each) for each in densities.values()], names)
    n_sequence, n_position = windows[0].y.shape
    difference = pointwise - pointwise.isel(fit=0)
    n_characters = n_sequence * n_position
    table = xr.Dataset(
        {
            "elpd": pointwise.sum("held_out_sequence"),
            "se": _sum_se(pointwise),
            "per_character": pointwise.sum("held_out_sequence") / n_characters,
            "per_character_se": _sum_se(pointwise) / n_characters,
            "difference": difference.sum("held_out_sequence"),
            "difference_se": _sum_se(difference),
            "mcse": xr.concat([_log_mean_mcse(each) for each in densities.values()], names),
        },
        attrs={"n_sequence": n_sequence, "n_character": n_characters},
    )
    return Comparison(table, pointwise)


def unigram_log_density(idata: az.InferenceData) -> tuple[float, float]:
    """A yardstick: held-out log density per character of smoothed character frequencies.

    Returns
    -------
    tuple of float
        Nats per character, and its standard error over sequences. Frequencies of the training
        targets plus one per character of the vocabulary.
    """
    problem = problem_of(idata)
    counts = np.bincount(problem.training.y.ravel(), minlength=problem.design.vocab_size) + 1
    per_sequence = np.log(counts / counts.sum())[problem.held_out.y].sum(axis=1)
    n_sequence, n_position = problem.held_out.y.shape
    se = per_sequence.std(ddof=1) / np.sqrt(n_sequence) if n_sequence > 1 else np.nan
    return per_sequence.mean() / n_position, se / n_position


def loo(idata: az.InferenceData) -> az.ELPDData:
    """PSIS-LOO where the unit left out is a sequence (Vehtari et al. 2017, 2024).

    Parameters
    ----------
    idata : InferenceData

    Returns
    -------
    arviz.ELPDData
        Pointwise, dims ``sequence``. Where ``pareto_k`` is above 0.7 the estimate for that
        sequence is not to be trusted: a bigram that no other sequence has makes it so.
    """
    per_sequence = idata.log_likelihood["log_lik"].sum("position")
    groups = {"posterior": idata.posterior, "sample_stats": idata.sample_stats}
    reduced = az.InferenceData(**groups, log_likelihood=per_sequence.to_dataset(name="log_lik"))
    # Efficiency of what is averaged; that of weights says where on an orbit they are.
    effective = float(ess(per_sequence)["ess_bulk"].mean()) if per_sequence.sizes["draw"] > 3 else 1
    n_draws = per_sequence.sizes["chain"] * per_sequence.sizes["draw"]
    with warnings.catch_warnings():  # the result says how many, see n_bad_pareto_k
        warnings.simplefilter("ignore", UserWarning)
        return az.loo(reduced, pointwise=True, reff=min(1.0, effective / n_draws))


def stacked(elpds: Mapping[str, az.ELPDData]) -> xr.Dataset:
    """Differences of elpd with paired standard errors, and stacking weights, by ArviZ.

    Parameters
    ----------
    elpds : mapping of str to arviz.ELPDData
        At least two, pointwise and of the same sequences, as `loo` returns them.

    Returns
    -------
    Dataset (fit)
        Best first: ``difference`` to the best in nats (0 or less), ``difference_se``, and
        ``weight``, that of stacking (Yao et al. 2018): weights for a mixture that predicts, no
        probabilities of models.
    """
    terms = {name: each["loo_i"] for name, each in elpds.items()}
    best = xr.concat(list(terms.values()), "fit").max("fit")
    shifted = {}
    for name, each in elpds.items():
        shifted[name] = each.copy()
        # ArviZ exponentiates the terms, which underflow for long sequences; neither differences
        # nor weights change when the same is taken from the terms of all fits.
        shifted[name]["loo_i"] = terms[name] - best
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what it could warn of is said by whoever asks
        found = az.compare(shifted, ic="loo", method="stacking")
    columns = {
        "difference": 0.0 - found["elpd_diff"],
        "difference_se": found["dse"],
        "weight": found["weight"].clip(0, 1),
    }
    return xr.Dataset(
        {name: ("fit", column.to_numpy(float)) for name, column in columns.items()},
        {"fit": list(found.index)},
    )


def n_bad_pareto_k(result: az.ELPDData) -> int:
    """How many sequences have a Pareto k above 0.7 in a `loo`."""
    return int((result.pareto_k > PARETO_K_LIMIT).sum())


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


def _next_log_prob(problem, parameters, context):
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


def _sum_se(pointwise):
    n = pointwise.sizes["held_out_sequence"]
    if n < 2:
        return xr.full_like(pointwise.isel(held_out_sequence=0), np.nan)
    return pointwise.std("held_out_sequence", ddof=1) * np.sqrt(n)


def _log_mean_mcse(log_density):
    """Monte Carlo error of the sum over sequences of the log of a mean over draws.

    Delta method: the sum of the logs moves like the mean over draws of the sum of the densities,
    each relative to its own mean, which keeps the dependence between sequences.
    """
    if log_density.sizes["draw"] < 4:
        return xr.DataArray(np.nan)
    relative = np.exp(log_density - log_mean_exp(log_density)).sum("held_out_sequence")
    return summarise(relative)["mcse_mean"]
