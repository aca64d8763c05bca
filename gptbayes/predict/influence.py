"""Influence of the observations on posterior means, from the draws alone.

With weight w_i on observation i of the likelihood, dE[φ]/dw_i = Cov(φ, ℓ_i) over the posterior
(Giordano & Broderick 2018, proposition 1; the Bayesian influence function of Kreer et al. 2025).
Leaving observation i out changes E[φ] by about -Cov(φ, ℓ_i); importance weights 1 / p(y_i | θ)
estimate the change itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import arviz as az
import numpy as np
import xarray as xr
from scipy.stats import spearmanr

from gptbayes.corpus import visible
from gptbayes.findings import PARETO_K_LIMIT, Finding
from gptbayes.groups import group as group_of
from gptbayes.groups import group_names, pareto_smoothed
from gptbayes.inference import parameters_of, problem_of
from gptbayes.predict.context_probabilities import next_probabilities
from gptbayes.predict.next_token import encode_prompt
from gptbayes.stats.summary import OVER, summarise

N_BOOTSTRAP = 1000
"""Number of bootstrap samples of observations for errors of a slope and a correlation."""


def influence(
    idata: az.InferenceData,
    quantity: xr.DataArray | Callable[[xr.Dataset], Any],
    *,
    log_likelihood: str | None = None,
    unit: str | None = None,
) -> xr.Dataset:
    """Compute the influence of every observation on a posterior mean.

    Parameters
    ----------
    idata : InferenceData or DataTree
        Of any model, with a group ``log_likelihood``.
    quantity : DataArray (chain, draw) or callable
        The quantity, or a function that computes it from the posterior.
    log_likelihood : str, optional
        Name of the variable in the group ``log_likelihood``, required if there are several.
    unit : str, optional
        The dim of observations. Log likelihoods are summed over all others. By default it is the
        first dim after chain and draw, which is the sequence for a stage.

    Returns
    -------
    Dataset (unit)
        ``influence``, the derivative of the mean of the quantity with respect to the weight of the
        observation, and its Monte Carlo standard error ``mcse``; ``left_out``, the change of the
        mean if the observation is left out, by Pareto-smoothed importance sampling, and the
        ``pareto_k`` of its weights, above 0.7 for an unreliable change. Attributes: ``mean`` of
        the quantity, ``total``, the sum of the influences, and ``total_mcse``. The sum is the
        derivative with respect to the logarithm of the power of the likelihood, as in
        power-scaling.

    Raises
    ------
    ValueError
        If there is no log likelihood, or several and none is named; if the quantity has other dims
        than chain and draw; if values are not finite; or if there are fewer than 4 draws per chain.

    See Also
    --------
    because : Influence of the training text on the probability of a character.
    gptbayes.diagnostics.sensitivity.prior_sensitivity : Power-scaling of prior and likelihood.

    Notes
    -----
    The influence is a derivative: minus the influence is a first-order approximation of the change
    if an observation is left out. ``left_out`` estimates the whole change, with a larger Monte
    Carlo error. Overlapping windows of a text are treated as separate observations.

    Examples
    --------
    The mean of a normal distribution. Observations 0 and 3 have influences of opposite signs:

    >>> from gptbayes.groups import make_groups
    >>> rng, y = np.random.default_rng(1), np.array([-2.0, 0.1, 0.4, 1.5])
    >>> theta = xr.DataArray(rng.normal(0, 0.5, (4, 1000)), dims=("chain", "draw"))
    >>> log_lik = -0.5 * (xr.DataArray(y, dims="observation") - theta) ** 2
    >>> groups = {"posterior": {"theta": theta}, "log_likelihood": {"y": log_lik}}
    >>> idata = make_groups({name: xr.Dataset(each) for name, each in groups.items()})
    >>> found = influence(idata, lambda posterior: posterior["theta"])
    >>> bool(found["influence"][0] < 0 < found["influence"][3])
    True
    """
    log_lik = _log_likelihood(idata, log_likelihood, unit)
    values = _quantity(idata, quantity)
    dim = log_lik.dims[-1]
    products = (values - values.mean(OVER)) * (log_lik - log_lik.mean(OVER))
    total = summarise(products.sum(dim))
    found = summarise(products)
    each = np.moveaxis(log_lik.values, -1, 0)
    left_out, pareto_k = np.array([_left_out(values.values, one) for one in each]).T
    correction = values.size / (values.size - 1)  # the means are estimated
    return xr.Dataset(
        {
            "influence": correction * found["mean"],
            "mcse": correction * found["mcse_mean"],
            "left_out": (dim, left_out),
            "pareto_k": (dim, pareto_k),
        },
        attrs={
            "mean": float(values.mean()),
            "total": correction * float(total["mean"]),
            "total_mcse": correction * float(total["mcse_mean"]),
        },
    )


def because(idata: az.InferenceData, context: str, character: str) -> xr.Dataset:
    """Compute the influence of each training sequence on the probability of a character.

    Parameters
    ----------
    idata : InferenceData
        Of a stage.
    context : str
        Its last ``block_size`` characters are used.
    character : str

    Returns
    -------
    Dataset (sequence)
        As of `influence`, for the probability of the character after the context, and ``text``,
        each training sequence with the character that follows it. Attributes ``context`` and
        ``character``.

    Raises
    ------
    ValueError
        If the context is empty, ``character`` is not a single character, or one of these is not in
        the vocabulary.
    """
    problem = problem_of(idata)
    if len(character) != 1:
        raise ValueError(f"because needs one character, got {character!r}")
    token = int(problem.vocabulary.encode(character)[0])
    tokens = encode_prompt(problem.vocabulary, context)
    p = next_probabilities(problem, parameters_of(idata), [tokens])
    found = influence(idata, p.isel(context=0, token=token, drop=True), log_likelihood="log_lik")
    x, y, decode = problem.training.x, problem.training.y, problem.vocabulary.decode
    texts = [decode(np.append(x[i], y[i, -1:])) for i in range(len(x))]
    return found.assign(text=("sequence", np.array(texts, dtype=object))).assign_attrs(
        context=context, character=character
    )


def because_sentences(found: xr.Dataset, n: int = 3) -> list[str]:
    """Describe the passages that raised and lowered a probability most, one sentence each.

    Parameters
    ----------
    found : Dataset (sequence)
        As of `because`.
    n : int
        Largest number of passages of each sign.

    Returns
    -------
    list of str
        Passages whose influence is more than two Monte Carlo standard errors from 0.
    """
    size, error = found["influence"].values, found["mcse"].values
    order = np.argsort(size, kind="stable")
    clear = np.abs(size) > 2 * error
    sentences = []
    for verb, chosen in (("raised", order[::-1]), ("lowered", order)):
        right = [i for i in chosen if clear[i] and (size[i] > 0) == (verb == "raised")][:n]
        for i in right:
            row = found.isel(sequence=int(i))
            change = float(row["left_out"])
            k = float(row["pareto_k"])
            shaky = f", unreliable, Pareto k {k:.2f}" if k > PARETO_K_LIMIT else ""
            sentences.append(
                f"{verb} by “{visible(str(row['text'].item()))}” (sequence {i + 1}): "
                f"{size[i]:+.4f} ± {error[i]:.4f} per unit of weight; without it the probability "
                f"changes by {change:+.4f}{shaky}"
            )
    return sentences


def influence_finding(found: xr.Dataset) -> Finding:
    """State how many influences differ clearly from 0, and how reliable left-out changes are.

    Parameters
    ----------
    found : Dataset (unit)
        As of `influence`.

    Returns
    -------
    Finding
        A warning if no influence is more than two Monte Carlo standard errors from 0, or a Pareto k
        is above 0.7.
    """
    clear = int((abs(found["influence"]) > 2 * found["mcse"]).sum())
    n = found["influence"].size
    bad = int((found["pareto_k"] > PARETO_K_LIMIT).sum())
    text = f"{clear} of {n} influences are more than two Monte Carlo standard errors from 0"
    if bad:
        text = (
            f"changes without a sequence are unreliable for {bad} of {n} sequences, whose Pareto k "
            f"is above {PARETO_K_LIMIT}; {text}"
        )
    return Finding(clear > 0 and not bad, text)


def compare_with_refits(found: xr.Dataset, refitted: xr.DataArray, *, seed: int = 0) -> xr.Dataset:
    """Compare influences with exact changes of posterior means from refits.

    Parameters
    ----------
    found : Dataset (unit, ...)
        As of `influence`; the results for several quantities may be concatenated along other dims.
    refitted : DataArray (unit, ...)
        With the same dims. The mean without each observation minus the mean with all; nan where
        there was no refit.
    seed : int
        Of the bootstrap over observations.

    Returns
    -------
    Dataset (estimate)
        For "first order" (minus the influence) and "importance sampling" (``left_out``): ``slope``
        of the exact changes on the estimate through the origin, 1 for a perfect estimate, and
        Spearman's rank correlation ``rank_correlation``, with standard errors ``slope_se`` and
        ``rank_correlation_se`` by a bootstrap of observations, each with all its quantities.

    Raises
    ------
    ValueError
        If there are fewer than three refits.
    """
    found = found.transpose(refitted.dims[0], ...)
    exact = refitted.transpose(*found["influence"].dims).values.reshape(len(refitted), -1)
    done = np.flatnonzero(np.isfinite(exact).all(axis=1))
    if done.size < 3:
        raise ValueError(f"a comparison needs at least three refits, got {done.size}")
    rng = np.random.default_rng(seed)
    samples = rng.integers(done.size, size=(N_BOOTSTRAP, done.size))
    estimates = {"first order": -found["influence"], "importance sampling": found["left_out"]}
    rows = []
    for estimate in estimates.values():
        x, y = estimate.values.reshape(exact.shape)[done], exact[done]
        slopes = (x * y).sum(axis=1)[samples].sum(axis=1) / (x**2).sum(axis=1)[samples].sum(axis=1)
        pairs = [(x[s].ravel(), y[s].ravel()) for s in samples[:200]]
        ranks = [spearmanr(a, b)[0] for a, b in pairs if np.ptp(a) and np.ptp(b)]
        rows.append(
            xr.Dataset(
                {
                    "slope": float((x * y).sum() / (x**2).sum()),
                    "slope_se": float(slopes.std(ddof=1)),
                    "rank_correlation": float(spearmanr(x.ravel(), y.ravel())[0]),
                    "rank_correlation_se": float(np.std(ranks, ddof=1)),
                }
            )
        )
    names = xr.DataArray(list(estimates), dims="estimate", name="estimate")
    return xr.concat(rows, names)


def _log_likelihood(idata, name, unit):
    if "log_likelihood" not in group_names(idata):
        raise ValueError("influence needs a group log_likelihood, there is none")
    dataset = group_of(idata, "log_likelihood")
    names = [str(each) for each in dataset.data_vars]
    if name is None and len(names) == 1:
        name = names[0]
    if name not in names:
        raise ValueError(f"log_likelihood must be one of {', '.join(names)}, got {name!r}")
    values = dataset[name].transpose(*OVER, ...)
    dims = values.dims[2:]
    if not dims:
        raise ValueError(f"the log likelihood {name} must have a dim of observations, got none")
    unit = dims[0] if unit is None else unit
    if unit not in dims:
        raise ValueError(f"unit must be one of {', '.join(map(str, dims))}, got {unit!r}")
    summed = values.sum([dim for dim in dims if dim != unit])
    _check_finite("the log likelihood", summed)
    if values.sizes["draw"] < 4:
        raise ValueError(f"influence needs at least 4 draws, got {values.sizes['draw']}")
    return summed.reset_coords(drop=True)


def _quantity(idata, quantity):
    if callable(quantity) and not isinstance(quantity, xr.DataArray):
        quantity = quantity(group_of(idata, "posterior"))
    if not isinstance(quantity, xr.DataArray) or set(quantity.dims) != set(OVER):
        got = getattr(quantity, "dims", type(quantity).__name__)
        raise ValueError(f"the quantity must be a DataArray with dims chain and draw, got {got}")
    _check_finite("the quantity", quantity)
    return quantity.transpose(*OVER).reset_coords(drop=True).drop_vars(OVER, errors="ignore")


def _check_finite(what, values):
    if not np.isfinite(values.values).all():
        raise ValueError(f"{what} must be finite, got nan or infinity")


def _left_out(values, log_lik):
    log_weights, k = pareto_smoothed(-log_lik.ravel())
    return float(np.exp(log_weights) @ values.ravel()) - float(values.mean()), k
