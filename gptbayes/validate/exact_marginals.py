"""Tests with known answers: what is known exactly of the posterior of every stage.

No prediction depends on some directions of weight space. A translation along one of them, under
an independent normal prior, leaves the posterior marginal of the direction what its prior was;
under a log-gamma prior this holds of the log-sum-exp of each row of logits. A rotation keeps prior
and likelihood both, so that the posterior of the orientation is uniform. Any sampler can be tested
against that, on the real posterior.
"""

from __future__ import annotations

from typing import NamedTuple

import arviz as az
import numpy as np
import xarray as xr
from scipy.special import digamma, logsumexp, polygamma
from scipy.stats import t as student_t

from gptbayes.inference import problem_of
from gptbayes.model.problem import Problem

ALPHA = 0.01
"""Family-wise error of the tests."""
BATCHES_PER_CHAIN = 5
MIN_BATCHES = 20


class ExactMarginal(NamedTuple):
    """Scalars of one kind whose posterior moments are known.

    Attributes
    ----------
    draws : DataArray (chain, draw, scalar)
    mean : float
        The exact mean of each.
    sd : float
        The exact standard deviation of each; nan where only the mean is known.
    """

    draws: xr.DataArray
    mean: float
    sd: float


def exact_marginals(idata: az.InferenceData) -> xr.Dataset:
    """Test draws against what is known exactly of their posterior.

    First and second moments are tested in Monte Carlo standard errors by batch means, which
    account for autocorrelation.

    Parameters
    ----------
    idata : InferenceData

    Returns
    -------
    Dataset (direction)
        ``n`` scalars of each kind, ``exact_sd`` (nan where only the mean is known), ``sd`` (about
        the exact mean, pooled), ``t_max`` (the largest of all standardised errors) and ``p_value``
        (of the largest, Bonferroni over all of the kind).
    """
    known = exact_directions(problem_of(idata), idata.posterior)
    names = xr.DataArray(list(known), dims="direction", name="direction")
    return xr.concat([_tested(each) for each in known.values()], names)


def family_wise_p(answers: xr.Dataset) -> float:
    """p-value of the worst of all directions, Bonferroni over the directions.

    Parameters
    ----------
    answers : Dataset (direction)
        As `exact_marginals` returns it.
    """
    return min(1.0, answers.sizes["direction"] * float(answers["p_value"].min()))


def exact_directions(problem: Problem, posterior: xr.Dataset) -> dict[str, ExactMarginal]:
    """The scalars of a posterior whose distribution is known exactly.

    Parameters
    ----------
    problem : Problem
    posterior : Dataset (chain, draw, ...)
        Every parameter, with the dims of `gptbayes.model.stages.Parameter`.

    Returns
    -------
    dict of str to Known
        Prior marginals of directions that no prediction depends on and of embeddings of
        characters that are never read; for stages with attention, means and orientations of keys
        and queries.
    """
    found = {
        **_embedding_directions(problem, posterior),
        **_head_directions(problem, posterior),
        **_unseen(problem, posterior),
    }
    if "attention" in problem.stage.features:
        found |= {f"mean of each {name}": _mean_zero(posterior[name]) for name in ("key", "query")}
        found["orientation of each head"] = _orientation(posterior)
    return found


def _head_directions(problem, posterior):
    """A constant added to all logits of a context changes nothing."""
    n_token = problem.design.vocab_size
    if "lm_head" not in problem.stage.features:
        logits = posterior["token_embedding"]
        if problem.stage.parameter("token_embedding").prior == "log_gamma":
            return {"logsumexp of each row of logits": _log_gamma_total(problem, logits)}
        total, scale = logits.sum("embed"), problem.priors.token_embedding
        return {"sum of each row of logits": _normal(total, n_token, scale)}
    columns = posterior["lm_head_multiplier"].sum("token")
    offset = posterior["lm_head_offset"].sum("token")
    return {
        "column sums of lm_head_multiplier": _normal(columns, n_token, problem.priors.lm_head),
        "sum of lm_head_offset": _normal(offset, n_token, problem.priors.offset),
    }


def _embedding_directions(problem, posterior):
    """What is added to all tokens can be taken from all positions."""
    found, priors, design = {}, problem.priors, problem.design
    same_scale = priors.token_embedding == priors.position_embedding
    if "position" in problem.stage.features and same_scale:
        shift = posterior["token_embedding"].sum("token")
        shift = shift - posterior["position_embedding"].sum("position")
        n = design.vocab_size + design.block_size
        found["token minus position embeddings"] = _normal(shift, n, priors.token_embedding)
    if "blocks" in problem.stage.features:  # a layer norm is before everything that reads
        for family in ("token_embedding", "position_embedding"):
            total = posterior[family].sum("embed")
            scale = getattr(priors, family)
            found[f"sum of each {family}"] = _normal(total, design.n_embed, scale)
    return found


def _unseen(problem, posterior):
    """The likelihood has nothing to say about a character that is never read."""
    unseen = np.setdiff1d(np.arange(problem.design.vocab_size), problem.training.x)
    if not unseen.size:
        return {}
    rows = posterior["token_embedding"].isel(token=unseen).transpose("chain", "draw", ...)
    parameter, priors = problem.stage.parameter("token_embedding"), problem.priors
    exact = ExactMarginal(_scalars(rows.values), priors.mean(parameter), priors.scale(parameter))
    return {"embeddings of unseen characters": exact}


def _log_gamma_total(problem, logits):
    """A sum of gamma variables is gamma and independent of their proportions (Lukacs 1955)."""
    total = logsumexp(logits.transpose("chain", "draw", "token", "embed").values, axis=-1)
    shape = problem.design.vocab_size * problem.priors.concentration
    return ExactMarginal(
        _scalars(total), float(digamma(shape)), float(np.sqrt(polygamma(1, shape)))
    )


def _orientation(posterior):
    """Where each head stands on its orbit under rotations of queries and keys together.

    Scores depend on Q Kᵀ only and the prior is isotropic, so that (Q, K) and (Q G, K G) have the
    same posterior density for every orthogonal G. The orthogonal polar factor of Rᵀ (Q, K), with
    R any fixed matrix, turns with G: it is uniform (Haar) on O(h), with element variance 1 / h.
    """
    dims = ("chain", "draw", "layer", "head", "embed", "head_dim")
    pair = [posterior[name].transpose(*dims).values for name in ("query", "key")]
    stacked = np.concatenate(pair, axis=-2)  # (..., 2 C, h)
    reference = np.random.default_rng(0).normal(size=stacked.shape[-2:])
    left, _, right = np.linalg.svd(reference.T @ stacked)
    turn = left @ right  # (..., h, h)
    return ExactMarginal(_scalars(turn), 0.0, 1 / np.sqrt(turn.shape[-1]))


def _mean_zero(draws):
    """Minus the identity is a rotation of queries and keys: both have mean 0."""
    return ExactMarginal(_scalars(draws.transpose("chain", "draw", ...).values), 0.0, np.nan)


def _normal(total, n, scale):
    """A sum of ``n`` weights, scaled to the prior sd of one."""
    return ExactMarginal(
        _scalars((total / np.sqrt(n)).transpose("chain", "draw", ...).values), 0.0, scale
    )


def _scalars(values):
    return xr.DataArray(values.reshape(*values.shape[:2], -1), dims=("chain", "draw", "scalar"))


def _tested(known):
    """Test first and second moments by batch means (Flegal & Jones 2010, section 3).

    Standard errors from few batches are honest about their own uncertainty: the statistic is
    compared with Student's t, where one from an estimated ESS would be too sure of itself.
    """
    centred = known.draws.values - known.mean
    moments = [centred]
    if np.isfinite(known.sd):
        moments.append((centred / known.sd) ** 2 - 1)
    n_chain, n_draw, n_scalar = centred.shape
    n_batch = min(n_draw, max(BATCHES_PER_CHAIN, MIN_BATCHES // n_chain))
    length = n_draw // n_batch
    last = np.stack(moments)[:, :, n_draw - n_batch * length :]
    means = last.reshape(len(moments), -1, length, n_scalar).mean(axis=2)  # (moment, batch, scalar)
    n = means.shape[1]
    error, se = np.abs(means.mean(axis=1)), means.std(axis=1, ddof=1) / np.sqrt(n)
    exact = error < 1e-12  # the square of a sign is always 1
    t = np.where(exact, 0, error / np.where(exact, 1, se))
    return xr.Dataset(
        {
            "n": n_scalar,
            "exact_sd": known.sd,
            "sd": np.sqrt((centred**2).mean()),
            "t_max": t.max(),
            "p_value": min(1.0, t.size * 2 * student_t.sf(t.max(), n - 1)),
        }
    )
