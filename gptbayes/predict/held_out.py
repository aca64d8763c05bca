"""Predictive density of held-out text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import arviz as az
import numpy as np
import xarray as xr

from gptbayes.findings import pareto_k_limit
from gptbayes.inference import parameters_of, problem_of
from gptbayes.model.forward import MAX_BYTES, position_logits, token_log_prob, weighted_sums
from gptbayes.model.layers import softmax
from gptbayes.model.problem import Problem
from gptbayes.predict.draw_weights import check_weights, effective_draws, weighted_log_mean_exp
from gptbayes.stats.standard_error import standard_error
from gptbayes.stats.summary import summarise


class Comparison(NamedTuple):
    """Held-out log predictive density of several fits, compared with the first.

    Attributes
    ----------
    table : Dataset (fit)
        ``elpd``, the sum over held-out sequences of the log predictive density, in nats, and its
        standard error ``se`` over sequences; ``per_character`` and ``per_character_se``, both
        divided by the number of characters; ``difference`` from the first fit, with its paired
        standard error ``difference_se``; ``mcse``, the Monte Carlo standard error of ``elpd``. If
        draws are weighted, also ``ess_weights``, the effective number of draws after weighting,
        and ``pareto_k`` of importance weights (nan for other weights). If k is above its limit
        (`gptbayes.findings.pareto_k_limit`) the weights are unreliable: ``elpd`` rests on a few
        draws and ``mcse`` is nan.
    pointwise : DataArray (fit, held_out_sequence)
        Log predictive density of each sequence, in nats.
    """

    table: xr.Dataset
    pointwise: xr.DataArray


def held_out_log_prob(idata: az.InferenceData) -> xr.DataArray:
    """Compute the log probability of each held-out character for each draw.

    Parameters
    ----------
    idata : InferenceData

    Returns
    -------
    DataArray (chain, draw, held_out_sequence, position)
        In nats.

    See Also
    --------
    held_out_predictive : Posterior means of the probabilities of all characters.
    """
    problem = problem_of(idata)
    values = token_log_prob(problem.stage, parameters_of(idata), problem.held_out)
    dims = ("chain", "draw", "held_out_sequence", "position")
    coords = {name: idata.posterior[name] for name in ("chain", "draw")}
    return xr.DataArray(values, dims=dims, coords=coords, name="log_prob")


def fixed_contexts(problem: Problem, n: int = 16) -> np.ndarray:
    """Select held-out contexts of full length at which draws are compared.

    Parameters
    ----------
    problem : Problem
    n : int
        Maximum number of contexts. They are distinct and evenly spaced in the held-out text.

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
    """Compute the posterior mean of next-character probabilities in held-out text.

    Parameters
    ----------
    idata : InferenceData
    weights : DataArray (chain, draw), optional
        Weights that sum to one, as of `psis_weights` or `chain_weights`. Equal by default.
    max_bytes : int
        Approximate bound on memory.

    Returns
    -------
    DataArray (held_out_sequence, position, token)
        Probabilities given the characters before the position in its sequence. These are a
        context and do not update the posterior: weights of draws are the same at all positions.

    Raises
    ------
    ValueError
        If weights have other chains or draws than the fit, or do not sum to one.

    See Also
    --------
    held_out_reliability : Calibration of these probabilities.
    """
    return predictive_of_weights(idata, {"": weights}, max_bytes=max_bytes)[""]


def predictive_of_weights(
    idata: az.InferenceData,
    weights: Mapping[str, xr.DataArray | None],
    *,
    max_bytes: int = MAX_BYTES,
) -> dict[str, xr.DataArray]:
    """Compute `held_out_predictive` for several weightings of the same draws, by name.

    Parameters
    ----------
    idata, weights, max_bytes
        As for `held_out_predictive`.

    Returns
    -------
    dict of str to DataArray (held_out_sequence, position, token)
    """
    problem, x = problem_of(idata), problem_of(idata).held_out.x
    weight = np.stack([_flat_weights(idata, each) for each in weights.values()])  # (name, draw)
    draws = {n: v.reshape(-1, *v.shape[2:]) for n, v in parameters_of(idata).items()}

    def probability(chunk):
        return softmax(position_logits(problem.stage, chunk, x))

    found = xr.DataArray(
        weighted_sums(problem.stage, draws, x, probability, weight, max_bytes=max_bytes),
        dims=("fit", "held_out_sequence", "position", "token"),
        coords={"token": list(problem.vocabulary.characters)},
        name="probability",
    )
    return dict(zip(weights, found, strict=True))


def compare_held_out(
    fits: Mapping[str, az.InferenceData],
    weights: Mapping[str, xr.DataArray] | None = None,
    *,
    log_density: Mapping[str, xr.DataArray] | None = None,
    forecasts: Mapping[str, xr.DataArray] | None = None,
) -> Comparison:
    """Compare fits by the log predictive density of the same held-out sequences.

    The unit is the sequence: the log of the posterior mean of the joint probability of its
    characters.

    Parameters
    ----------
    fits : mapping of str to InferenceData
        Fits with the same held-out windows. Differences are from the first.
    weights : mapping of str to DataArray (chain, draw), optional
        Weights of the draws of some of the fits, each summing to one, as of `psis_weights` or
        `chain_weights`. The same fit may appear under two names, with and without weights.
    log_density : mapping of str to DataArray (chain, draw, held_out_sequence), optional
        `held_out_log_prob` of each fit, summed over positions, if it has been computed already.
    forecasts : mapping of str to DataArray (held_out_sequence), optional
        Log densities of forecasts without draws, as of `dirichlet_multinomial`. Their rows come
        last, and have no Monte Carlo error.

    Returns
    -------
    Comparison

    Raises
    ------
    ValueError
        If there are no fits, the fits have different held-out text, or weights have other chains
        or draws than their fit.

    See Also
    --------
    loo : Leave-one-out on the training text.
    held_out_reliability : Calibration.
    dirichlet_multinomial : Baselines in closed form.
    gptbayes.plots.plot_held_out : The figure.

    Notes
    -----
    Monte Carlo errors are by the delta method. Let p_si be the probability of sequence i under
    draw s, q_i = Σ_s w_s p_si and r_s = Σ_i p_si / q_i. To first order, the error of the sum over
    sequences of log q_i is that of the weighted mean of r. For independent draws with
    self-normalized importance weights its variance is Σ_s w_s² (r_s - r̄)² (Owen 2013, Monte Carlo
    theory, equation 9.8). For dependent draws the effective sample size of w_s (r_s - r̄) replaces
    their number. The errors of weighted chains are added, given the weights of the chains: the
    disagreement of stacked chains is not Monte Carlo error.

    Examples
    --------
    >>> import tempfile
    >>> import gptbayes as gb
    >>> fits = {}
    >>> for number in ("01", "02"):
    ...     problem = gb.make_problem(gb.stage(number), gb.zen_of_python(), batch_size=11)
    ...     with tempfile.TemporaryDirectory() as folder:
    ...         fits[number] = gb.open_run(gb.fit.prior(problem, folder, draws=20))
    >>> comparison = compare_held_out(fits)
    >>> float(comparison.table["difference"].sel(fit="01"))
    0.0
    >>> comparison.pointwise.dims
    ('fit', 'held_out_sequence')
    """
    if not fits:
        raise ValueError("compare_held_out needs at least one fit, got none")
    windows = [problem_of(idata).held_out for idata in fits.values()]
    if not all(np.array_equal(windows[0].y, each.y) for each in windows):
        raise ValueError(f"fits must have the same held-out text: {', '.join(fits)}")
    weights, forecasts = _checked_weights(fits, weights), dict(forecasts or {})
    densities = dict(log_density or _log_densities(fits))
    names = xr.DataArray([*fits, *forecasts], dims="fit", name="fit")
    terms = [weighted_log_mean_exp(each, weights.get(name)) for name, each in densities.items()]
    pointwise = xr.concat([*terms, *forecasts.values()], names)
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
                [
                    *(_mcse(each, weights.get(name)) for name, each in densities.items()),
                    *(xr.DataArray(np.nan) for _ in forecasts),
                ],
                names,
            ),
        },
        attrs={"n_sequence": n_sequence, "n_character": n_characters},
    )
    return Comparison(table.assign(_weight_columns(fits, weights, len(forecasts))), pointwise)


def _log_densities(fits):
    """Log densities of each fit; a fit that appears under two names is computed once."""
    of_fit = {id(idata): idata for idata in fits.values()}
    of_fit = {key: held_out_log_prob(idata).sum("position") for key, idata in of_fit.items()}
    return {name: of_fit[id(idata)] for name, idata in fits.items()}


def unigram_log_density(idata: az.InferenceData) -> tuple[float, float]:
    """Compute the held-out log density of smoothed character frequencies, a baseline.

    The probability of a character is its frequency among the training targets, after adding one to
    the count of each character of the vocabulary.

    Parameters
    ----------
    idata : InferenceData

    Returns
    -------
    tuple of float
        Nats per character, and the standard error over sequences.
    """
    problem = problem_of(idata)
    counts = np.bincount(problem.training.y.ravel(), minlength=problem.design.vocab_size) + 1
    per_sequence = np.log(counts / counts.sum())[problem.held_out.y].sum(axis=1)
    n_position = problem.held_out.y.shape[1]
    return per_sequence.mean() / n_position, float(standard_error(per_sequence)) / n_position


def _sum_se(pointwise):
    n = pointwise.sizes["held_out_sequence"]
    if n < 2:
        return xr.full_like(pointwise.isel(held_out_sequence=0), np.nan)
    return pointwise.std("held_out_sequence", ddof=1) * np.sqrt(n)


def _checked_weights(fits, weights):
    weights = dict(weights or {})
    unknown = [name for name in weights if name not in fits]
    if unknown:
        raise ValueError(f"weights must be for fits {', '.join(fits)}, got {unknown[0]}")
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


def _weight_columns(fits, weights, n_forecast):
    """Columns of the table about weights, if there are any."""
    if not weights:
        return {}
    none = [np.nan] * n_forecast
    k = [
        weights[name].attrs.get("pareto_k", np.nan) if name in weights else np.nan for name in fits
    ]
    effective = [
        effective_draws(weights[name])
        if name in weights
        else idata.posterior.sizes["chain"] * idata.posterior.sizes["draw"]
        for name, idata in fits.items()
    ]
    return {
        "pareto_k": ("fit", [*k, *none]),
        "ess_weights": ("fit", np.array([*effective, *none], float)),
    }


def _mcse(log_density, weights):
    """Monte Carlo standard error of the sum over sequences of the log of a mean over draws.

    By the delta method it is that of the mean over draws of the sum of the relative densities,
    which keeps the dependence between sequences.
    """
    if log_density.sizes["draw"] < 4:
        return xr.DataArray(np.nan)
    mean = weighted_log_mean_exp(log_density, weights)
    relative = np.exp(log_density - mean).sum("held_out_sequence")
    if weights is None:
        return summarise(relative)["mcse_mean"]
    if weights.attrs.get("pareto_k", 0.0) > pareto_k_limit(weights.size):
        return xr.DataArray(np.nan)  # its variance may be infinite
    of_chain = weights.sum("draw")
    centre = (weights * relative).sum("draw") / of_chain.where(of_chain > 0, 1.0)
    # The density of a draw with weight 0 may overflow.
    series = (weights * (relative - centre)).where(weights > 0, 0.0) * weights.sizes["draw"]
    variances = [summarise(series.isel(chain=[c]))["mcse_mean"] ** 2 for c in range(len(series))]
    moving = [each for each, w in zip(variances, of_chain.values, strict=True) if w > 0]
    return np.sqrt(sum(moving))
