"""Predictive density of text that was held out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import arviz as az
import numpy as np
import xarray as xr
from scipy.special import softmax

from gptbayes.findings import PARETO_K_LIMIT
from gptbayes.inference import parameters_of, problem_of
from gptbayes.model.forward import MAX_BYTES, forward, over_draws, token_log_prob
from gptbayes.model.problem import Problem
from gptbayes.predict.draw_weights import check_weights, effective_draws, weighted_log_mean_exp
from gptbayes.stats.summary import summarise


class Comparison(NamedTuple):
    """How well fits predict held-out text, each against the first.

    Attributes
    ----------
    table : Dataset (fit)
        ``elpd`` is the sum over held-out sequences of the log predictive density, in nats, and
        ``se`` its standard error over sequences; ``per_character`` and ``per_character_se`` are
        both divided by the number of characters; ``difference`` is to the first fit, with
        ``difference_se`` from paired differences; ``mcse`` is the Monte Carlo error of ``elpd``.
        If draws were weighted, ``ess_weights``, the effective number of draws that the weights
        leave, and ``pareto_k`` of importance weights, nan for others: above 0.7 they do not do
        their work, ``elpd`` is that of a few draws and its ``mcse``, unknowable, nan.
    pointwise : DataArray (fit, held_out_sequence)
        In nats.
    """

    table: xr.Dataset
    pointwise: xr.DataArray


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


def fixed_contexts(problem: Problem, n: int = 16) -> np.ndarray:
    """Contexts of full length from held-out text, evenly spread, to compare predictions at.

    Parameters
    ----------
    problem : Problem
    n : int
        At most so many, all different.

    Returns
    -------
    ndarray of int, (context, position)
    """
    rows = np.unique(problem.held_out.x, axis=0, return_index=True)[1]
    chosen = np.unique(np.linspace(0, len(rows) - 1, min(n, len(rows))).astype(int))
    return problem.held_out.x[np.sort(rows)[chosen]]


def held_out_predictive(
    idata: az.InferenceData,
    weights: xr.DataArray | None = None,
    *,
    max_bytes: int = MAX_BYTES,
) -> xr.DataArray:
    """Posterior mean of the probabilities of every next character in held-out text.

    Parameters
    ----------
    idata : InferenceData
    weights : DataArray (chain, draw), optional
        Summing to one, as `psis_weights` and `chain_weights` give them; equal ones by default.
    max_bytes : int
        Rough bound on the memory of what is computed at any time, a chunk of draws after another.

    Returns
    -------
    DataArray (held_out_sequence, position, token)
        Each character's, given those before it in its sequence, which all draws have read and
        none has learned from: weights of draws stay the same along the sequence.

    Raises
    ------
    ValueError
        If weights are not those of the fit's draws.
    """
    problem, x = problem_of(idata), problem_of(idata).held_out.x
    weight = _flat_weights(idata, weights)
    draws = {n: v.reshape(-1, *v.shape[2:]) for n, v in parameters_of(idata).items()}
    shape = (*x.shape, len(problem.vocabulary))
    size = max(1, int(max_bytes // (8 * np.prod(shape))))

    def probability(chunk):
        return softmax(forward(problem.stage, chunk, x).logits, axis=-1)

    mean = np.zeros(shape)
    for start in range(0, len(weight), size):
        here = slice(start, start + size)
        part = {name: value[here] for name, value in draws.items()}
        p = over_draws(problem.stage, part, x, probability, max_bytes=max_bytes)
        mean += np.tensordot(weight[here], p, axes=1)
    return xr.DataArray(
        mean,
        dims=("held_out_sequence", "position", "token"),
        coords={"token": list(problem.vocabulary.characters)},
        name="probability",
    )


def compare_held_out(
    fits: Mapping[str, az.InferenceData],
    weights: Mapping[str, xr.DataArray] | None = None,
    *,
    log_density: Mapping[str, xr.DataArray] | None = None,
) -> Comparison:
    """Compare fits by the log predictive density of the same held-out sequences.

    The unit is the sequence: log of the posterior mean of the probability of all its characters.

    Parameters
    ----------
    fits : mapping of str to InferenceData
        Of the same text and windows; the first is what the others are compared to.
    weights : mapping of str to DataArray (chain, draw), optional
        Of the draws of some of the fits, each summing to one, as `psis_weights` and
        `chain_weights` give them. The same fit may be there twice, with and without.
    log_density : mapping of str to DataArray (chain, draw, held_out_sequence), optional
        `held_out_log_prob` of each fit, summed over positions, where it is known already.

    Returns
    -------
    Comparison

    Raises
    ------
    ValueError
        If there are no fits, the fits have different held-out text, or weights are not those of
        a fit's draws.

    Notes
    -----
    Monte Carlo errors are by the delta method. With p_si the probability of sequence i under draw
    s, q_i = Σ_s w_s p_si and r_s = Σ_i p_si / q_i, the sum over sequences of log q_i errs as the
    weighted mean of r does. For independent draws with self-normalised importance weights that is
    Σ_s w_s² (r_s - r̄)² (Owen 2013, Monte Carlo theory, equation 9.8); dependent draws have the
    effective sample size of w_s (r_s - r̄) in place of their number. Of several weighted chains
    each errs by itself and what they weigh is taken as given: that stacked chains disagree is why
    they were stacked, and no Monte Carlo error.
    """
    if not fits:
        raise ValueError("compare_held_out needs at least one fit")
    windows = [problem_of(idata).held_out for idata in fits.values()]
    if not all(np.array_equal(windows[0].y, each.y) for each in windows):
        raise ValueError(f"fits must have the same held-out text: {', '.join(fits)}")
    weights = _checked_weights(fits, weights)
    densities = dict(log_density or _log_densities(fits))
    names = xr.DataArray(list(fits), dims="fit", name="fit")
    terms = [weighted_log_mean_exp(each, weights.get(name)) for name, each in densities.items()]
    pointwise = xr.concat(terms, names)
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
            "mcse": xr.concat(
                [_mcse(each, weights.get(name)) for name, each in densities.items()], names
            ),
        },
        attrs={"n_sequence": n_sequence, "n_character": n_characters},
    )
    return Comparison(table.assign(_of_weights(fits, weights)), pointwise)


def _log_densities(fits):
    """One forward pass over all draws for each fit, with however many weights it is there."""
    of_fit = {id(idata): idata for idata in fits.values()}
    of_fit = {key: held_out_log_prob(idata).sum("position") for key, idata in of_fit.items()}
    return {name: of_fit[id(idata)] for name, idata in fits.items()}


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


def _sum_se(pointwise):
    n = pointwise.sizes["held_out_sequence"]
    if n < 2:
        return xr.full_like(pointwise.isel(held_out_sequence=0), np.nan)
    return pointwise.std("held_out_sequence", ddof=1) * np.sqrt(n)


def _checked_weights(fits, weights):
    weights = dict(weights or {})
    unknown = [name for name in weights if name not in fits]
    if unknown:
        raise ValueError(f"weights must be of {', '.join(fits)}, got those of {unknown[0]}")
    for name, each in weights.items():
        check_weights(each, fits[name], name)
    bare = {name: each.drop_vars(list(each.coords)) for name, each in weights.items()}
    return {name: each.transpose("chain", "draw") for name, each in bare.items()}


def _flat_weights(idata, weights):
    if weights is None:
        n = idata.posterior.sizes["chain"] * idata.posterior.sizes["draw"]
        return np.full(n, 1 / n)
    check_weights(weights, idata, "the fit")
    return weights.transpose("chain", "draw").values.ravel()


def _of_weights(fits, weights):
    """What a table says of weights, if there are any."""
    if not weights:
        return {}
    k = [
        weights[name].attrs.get("pareto_k", np.nan) if name in weights else np.nan for name in fits
    ]
    effective = [
        effective_draws(weights[name])
        if name in weights
        else idata.posterior.sizes["chain"] * idata.posterior.sizes["draw"]
        for name, idata in fits.items()
    ]
    return {"pareto_k": ("fit", k), "ess_weights": ("fit", np.array(effective, float))}


def _mcse(log_density, weights):
    """Monte Carlo error of the sum over sequences of the log of a mean over draws.

    Delta method: the sum of the logs moves like the mean over draws of the sum of the densities,
    each relative to its own mean, which keeps the dependence between sequences.
    """
    if log_density.sizes["draw"] < 4:
        return xr.DataArray(np.nan)
    mean = weighted_log_mean_exp(log_density, weights)
    relative = np.exp(log_density - mean).sum("held_out_sequence")
    if weights is None:
        return summarise(relative)["mcse_mean"]
    if weights.attrs.get("pareto_k", 0.0) > PARETO_K_LIMIT:
        return xr.DataArray(np.nan)  # the variance of such a mean is not finite, nor its estimate
    of_chain = weights.sum("draw")
    centre = (weights * relative).sum("draw") / of_chain.where(of_chain > 0, 1.0)
    # What a draw without weight says may overflow; it counts for nothing.
    series = (weights * (relative - centre)).where(weights > 0, 0.0) * weights.sizes["draw"]
    variances = [summarise(series.isel(chain=[c]))["mcse_mean"] ** 2 for c in range(len(series))]
    moving = [each for each, w in zip(variances, of_chain.values, strict=True) if w > 0]
    return np.sqrt(sum(moving))
