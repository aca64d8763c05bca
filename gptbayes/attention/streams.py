"""Summaries of many scalars in bounded memory, and probabilities with their Monte Carlo error."""

from __future__ import annotations

import arviz as az
import numpy as np
import xarray as xr

from gptbayes.inference import parameters_of, problem_of
from gptbayes.model.problem import Problem
from gptbayes.stats.summary import summarise

OVER = ("chain", "draw")
SOURCES = ("posterior", "prior")
"""Groups of InferenceData that are shown side by side, in this order."""
COPIES = 8
"""How many arrays of the size of its input `gptbayes.stats.summary.summarise` needs at a time, about."""
CONSTANT = 1e-12
"""A scalar that varies less over the draws is certain by construction."""
STATISTICS = ("mean", "sd", "lower", "upper", "mcse_mean", "ess_bulk", "r_hat")


def problem_with_attention(idata: az.InferenceData) -> Problem:
    """The problem of a fit, if its stage has attention.

    Raises
    ------
    ValueError
        For stages 01 to 03.
    """
    problem = problem_of(idata)
    if "attention" not in problem.stage.features:
        raise ValueError(f"stage {problem.stage.number} has no attention, stages 04 to 12 have")
    return problem


def draws_of(idata: az.InferenceData, group: str) -> dict[str, np.ndarray]:
    """Parameters of the posterior or the prior, arrays ``(chain, draw, ...)``.

    Raises
    ------
    ValueError
        If ``group`` is neither.
    """
    if group not in SOURCES:
        raise ValueError(f"group must be one of {', '.join(SOURCES)}, got {group!r}")
    return parameters_of(idata, group)


def checked_contexts(problem: Problem, contexts: np.ndarray) -> np.ndarray:
    """Contexts as an array of tokens.

    Raises
    ------
    ValueError
        If they are not ``(sequence, position)``, none, or longer than the model can read.
    """
    contexts = np.asarray(contexts)
    longest = problem.design.block_size
    if contexts.ndim != 2 or not contexts.size or contexts.shape[1] > longest:
        raise ValueError(
            "contexts must be tokens (sequence, position) with at least one sequence of 1 to "
            f"{longest} positions, got shape {contexts.shape}"
        )
    return contexts


def context_coords(problem: Problem, contexts: np.ndarray) -> dict:
    """Coordinates of maps of attention: what is read, and where."""
    places = np.arange(contexts.shape[1])
    text = [problem.vocabulary.decode(context) for context in contexts]
    return {"text": ("sequence", text), "query_position": places, "key_position": places}


def labelled(idata: az.InferenceData, group: str, values: np.ndarray, *dims: str) -> xr.DataArray:
    """Values of every draw, ``(chain, draw, *dims)``, with the chains and draws they are of."""
    coords = {name: idata[group][name].values for name in OVER}
    return xr.DataArray(values, dims=(*OVER, *dims), coords=coords)


def summarise_scalars(
    values: xr.DataArray, *, prob: float = 0.9, max_bytes: int = 256 * 2**20
) -> xr.Dataset:
    """`gptbayes.stats.summary.summarise`, by blocks, and without the cost of what is certain.

    Parameters
    ----------
    values : DataArray (chain, draw, ...)
    prob : float
        Mass of the intervals.
    max_bytes : int
        Rough bound on what is held beside ``values`` and the result.

    Returns
    -------
    Dataset (...)
        The statistics of `gptbayes.stats.summary.summarise`. A scalar that is the same in every draw
        has no spread and no Monte Carlo error: its ``sd`` and ``mcse_mean`` are 0, ``lower`` and
        ``upper`` are its value; ``ess_bulk`` and ``r_hat``, which mean nothing there, are nan.
    """
    values = values.transpose(*OVER, ...)
    shape = values.shape[2:]
    flat = values.values.reshape(*values.shape[:2], -1)  # (chain, draw, scalar)
    found = {name: np.full(flat.shape[2], np.nan) for name in STATISTICS}
    first = flat[0, 0]
    varies = np.ptp(flat, axis=(0, 1)) > CONSTANT * np.maximum(1, np.abs(first))
    if flat[..., 0].size > 1:
        found["sd"][:] = found["mcse_mean"][:] = np.where(np.isnan(first), np.nan, 0.0)
        found["lower"][:] = found["upper"][:] = first
    found["mean"][:] = first
    indices = np.flatnonzero(varies)
    block = max(1, int(max_bytes // (8 * COPIES * max(flat[..., 0].size, 1))))
    for start in range(0, len(indices), block):
        chosen = indices[start : start + block]
        part = summarise(xr.DataArray(flat[..., chosen], dims=(*OVER, "scalar")), prob=prob)
        for name in STATISTICS:
            found[name][chosen] = part[name].values
    dims = values.dims[2:]
    coords = {name: each for name, each in values.coords.items() if not {*each.dims} & {*OVER}}
    shaped = {name: (dims, each.reshape(shape)) for name, each in found.items()}
    return xr.Dataset(shaped, coords, attrs={"prob": prob})


def probability(events: xr.DataArray, *, effective: xr.DataArray | None = None) -> xr.Dataset:
    """Share of draws in which something is so, with its Monte Carlo standard error.

    Parameters
    ----------
    events : DataArray of bool (chain, draw, ...)
    effective : DataArray (...), optional
        Effective sample size of what the event is about. An event that is the same in every draw
        has none of its own: by default all its draws count.

    Returns
    -------
    Dataset (...)
        ``probability`` and ``mcse``, √(p (1 - p) / ess), where p is pulled towards one half by
        half a draw on either side (the Bayes estimate under Jeffreys' prior), so that an event
        that never happened in n draws has an error of about 0.7 / n and not of 0. A single
        draw, a mode, has no error: nan.
    """
    values = events.astype(float)
    share = values.mean(OVER)
    n = values.sizes["chain"] * values.sizes["draw"]
    if values.sizes["draw"] < 4:
        return xr.Dataset({"probability": share, "mcse": xr.full_like(share, np.nan)})
    never_changes = (share == 0) | (share == 1)
    size = _ess_where(values, ~never_changes)
    fallback = n if effective is None else effective.fillna(n)
    size = xr.where(never_changes, fallback, size).clip(1, None)
    pulled = (size * share + 0.5) / (size + 1)
    return xr.Dataset({"probability": share, "mcse": np.sqrt(pulled * (1 - pulled) / size)})


def probability_of_more(posterior: xr.DataArray, prior: xr.DataArray) -> xr.Dataset:
    """Probability that a draw of the posterior is larger than an independent one of the prior.

    Parameters
    ----------
    posterior, prior : DataArray (chain, draw, ...)
        The same dims after chain and draw; nan where there is nothing to compare.

    Returns
    -------
    Dataset (...)
        ``probability``, ties counting half (Mann & Whitney 1947), near one half where the two
        cannot be told apart, and ``mcse``: the variance of such a statistic is, to first order,
        that of its two projections (Hoeffding 1948), each with the effective sample size of its
        own draws, so that chains that move slowly have a large one.
    """
    ours = posterior.transpose(*OVER, ...)
    theirs = prior.transpose(*OVER, *ours.dims[2:])
    below = ours.copy(data=_share_below(ours.values, theirs.values))
    above = theirs.copy(data=1 - _share_below(theirs.values, ours.values))
    if min(ours.sizes["draw"], theirs.sizes["draw"]) < 4:
        error = xr.full_like(below.mean(OVER), np.nan)
    else:
        error = np.hypot(_mean_error(below), _mean_error(above))
    return xr.Dataset({"probability": below.mean(OVER), "mcse": error})


def side_by_side(tables: dict[str, xr.Dataset]) -> xr.Dataset:
    """Tables of the posterior and the prior in one, with the dim ``source`` in front."""
    names = xr.DataArray(list(tables), dims="source", name="source")
    joined = xr.concat(list(tables.values()), names, combine_attrs="override")
    return joined.transpose("source", ...)


def _share_below(values, reference):
    """Share of a reference that is smaller than each value, ties half; nan without a value."""
    flat = values.reshape(*values.shape[:2], -1)
    others = np.sort(reference.reshape(-1, flat.shape[2]), axis=0)
    found = np.empty(flat.shape)
    for k in range(flat.shape[2]):
        sides = [np.searchsorted(others[:, k], flat[..., k], side) for side in ("left", "right")]
        found[..., k] = (sides[0] + sides[1]) / (2 * len(others))
    return np.where(np.isnan(values), np.nan, found.reshape(values.shape))


def _mean_error(values):
    """Monte Carlo standard error of a mean over draws; 0 where all are alike."""
    varies = values.max(OVER) - values.min(OVER) > CONSTANT
    size = xr.where(varies, _ess_where(values, varies), 1.0)
    return values.std(OVER) / np.sqrt(size)


def _ess_where(values, chosen):
    """Effective sample size of means, asked only for the scalars that are chosen."""
    dims = values.dims[2:]
    flat = values.values.reshape(*values.shape[:2], -1)
    at = np.flatnonzero(chosen.transpose(*dims).values)
    found = np.full(flat.shape[2], np.nan)
    if len(at):
        picked = az.convert_to_dataset({"value": flat[..., at]})
        found[at] = az.ess(picked, method="mean")["value"].values
    return xr.DataArray(found.reshape(values.shape[2:]), dims=dims)
