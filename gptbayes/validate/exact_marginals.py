"""Posterior marginals that are known exactly at every stage, and tests of draws against them.

The likelihood does not depend on some directions of parameter space. Under independent normal
priors, the posterior marginal of a direction along which the likelihood is invariant under
translations equals its prior marginal. Under the log-gamma prior this holds for the log-sum-exp of
each row of logits. Rotations of queries and keys leave prior and likelihood invariant, so that the
posterior of the orientation of a head is uniform. These are tests of any sampler on the real
posterior.
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
"""Family-wise error rate of the tests."""
BATCHES_PER_CHAIN = 5
MIN_BATCHES = 20
"""Number of batches per chain, and in all chains together, of batch-means standard errors."""


class ExactMarginal(NamedTuple):
    """Draws of scalars of one kind, and their exact posterior moments.

    Attributes
    ----------
    draws : DataArray (chain, draw, scalar)
    mean : float
        Exact posterior mean of each scalar.
    sd : float
        Exact posterior standard deviation of each scalar; nan if only the mean is known.
    """

    draws: xr.DataArray
    mean: float
    sd: float


def check_exact_marginals(idata: az.InferenceData) -> xr.Dataset:
    """Test posterior draws against the marginals that are known exactly.

    First and second moments are compared in Monte Carlo standard errors, estimated by batch means,
    which account for autocorrelation (Flegal & Jones 2010, section 3).

    Parameters
    ----------
    idata : InferenceData

    Returns
    -------
    Dataset (direction)
        One item for each kind of scalar: their number ``n``; ``exact_sd``, nan if only the mean is
        known; ``sd``, the root mean square deviation of all draws from the exact mean; ``t_max``,
        the largest standardized error of all moments; and its ``p_value``, Bonferroni-adjusted for
        all moments of the kind.

    See Also
    --------
    family_wise_p : One p-value for all kinds together.
    gptbayes.validate.sbc.calibrate : Tests of all predictions, by many fits.

    Examples
    --------
    >>> import tempfile
    >>> from gptbayes import fit
    >>> from gptbayes.corpus import zen_of_python
    >>> from gptbayes.inference import open_run
    >>> from gptbayes.model.problem import make_problem
    >>> from gptbayes.model.stages import stage
    >>> problem = make_problem(stage("02"), zen_of_python())
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     idata = open_run(fit.prior(problem, folder, draws=200))
    >>> checks = check_exact_marginals(idata)
    >>> checks["direction"].values.tolist()[:2]
    ['column sums of lm_head_multiplier', 'sum of lm_head_offset']
    >>> family_wise_p(checks) > ALPHA
    True
    """
    known = known_marginals(problem_of(idata), idata.posterior)
    names = xr.DataArray(list(known), dims="direction", name="direction")
    return xr.concat([_test_moments(each) for each in known.values()], names)


def family_wise_p(checks: xr.Dataset) -> float:
    """Compute the smallest p-value of all kinds of scalars, Bonferroni-adjusted for the kinds.

    Parameters
    ----------
    checks : Dataset (direction)
        As `check_exact_marginals` returns it.

    Returns
    -------
    float
    """
    return min(1.0, checks.sizes["direction"] * float(checks["p_value"].min()))


def known_marginals(problem: Problem, posterior: xr.Dataset) -> dict[str, ExactMarginal]:
    """Compute the scalars whose posterior mean or marginal is known exactly.

    Parameters
    ----------
    problem : Problem
    posterior : Dataset (chain, draw, ...)
        All parameters, with the dims of `gptbayes.model.stages.Parameter`.

    Returns
    -------
    dict of str to ExactMarginal
        Scalars with their prior marginal: directions along which the likelihood is invariant, and
        embeddings of characters that are not in the training input. For stages with attention
        also the elements of keys and queries, with mean 0, and the orientation of each head.
    """
    known = {
        **_embedding_directions(problem, posterior),
        **_head_directions(problem, posterior),
        **_unseen_characters(problem, posterior),
    }
    if "attention" in problem.stage.features:
        known |= {f"mean of each {name}": _mean_zero(posterior[name]) for name in ("key", "query")}
        known["orientation of each head"] = _orientation(posterior)
    return known


def _head_directions(problem, posterior):
    """The softmax is invariant to a constant added to all logits of a context."""
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
    """A vector added to all token and subtracted from all position embeddings cancels."""
    known, priors, design = {}, problem.priors, problem.design
    same_scale = priors.token_embedding == priors.position_embedding
    if "position" in problem.stage.features and same_scale:
        shift = posterior["token_embedding"].sum("token")
        shift = shift - posterior["position_embedding"].sum("position")
        n = design.vocab_size + design.block_size
        known["token minus position embeddings"] = _normal(shift, n, priors.token_embedding)
    if "blocks" in problem.stage.features:  # every reader of the residual stream has a layer norm
        for family in ("token_embedding", "position_embedding"):
            total = posterior[family].sum("embed")
            scale = getattr(priors, family)
            known[f"sum of each {family}"] = _normal(total, design.n_embed, scale)
    return known


def _unseen_characters(problem, posterior):
    """The likelihood does not depend on embeddings of characters that are not in the input."""
    unseen = np.setdiff1d(np.arange(problem.design.vocab_size), problem.training.x)
    if not unseen.size:
        return {}
    rows = posterior["token_embedding"].isel(token=unseen).transpose("chain", "draw", ...)
    parameter, priors = problem.stage.parameter("token_embedding"), problem.priors
    exact = ExactMarginal(_scalars(rows.values), priors.mean(parameter), priors.scale(parameter))
    return {"embeddings of unseen characters": exact}


def _log_gamma_total(problem, logits):
    """A sum of gamma variables is gamma, and independent of their proportions (Lukacs 1955)."""
    total = logsumexp(logits.transpose("chain", "draw", "token", "embed").values, axis=-1)
    shape = problem.design.vocab_size * problem.priors.concentration
    return ExactMarginal(
        _scalars(total), float(digamma(shape)), float(np.sqrt(polygamma(1, shape)))
    )


def _orientation(posterior):
    """Orientation of each head: its orthogonal factor under rotations of queries and keys.

    Scores depend on Q Kᵀ only and the prior is isotropic, so that (Q, K) and (Q G, K G) have the
    same posterior density for every orthogonal G. Let R be a fixed matrix. The orthogonal polar
    factor of Rᵀ (Q, K) is multiplied by G as well. It is therefore Haar-distributed on O(h), and
    its elements have variance 1 / h.
    """
    dims = ("chain", "draw", "layer", "head", "embed", "head_dim")
    pair = [posterior[name].transpose(*dims).values for name in ("query", "key")]
    stacked = np.concatenate(pair, axis=-2)  # (..., 2 C, h)
    reference = np.random.default_rng(0).normal(size=stacked.shape[-2:])
    left, _, right = np.linalg.svd(reference.T @ stacked)
    factor = left @ right  # (..., h, h)
    return ExactMarginal(_scalars(factor), 0.0, 1 / np.sqrt(factor.shape[-1]))


def _mean_zero(draws):
    """The posterior is invariant when queries and keys change sign together: both have mean 0."""
    return ExactMarginal(_scalars(draws.transpose("chain", "draw", ...).values), 0.0, np.nan)


def _normal(total, n, scale):
    """A sum of ``n`` independent parameters, divided by √n: it has their prior sd, ``scale``."""
    return ExactMarginal(
        _scalars((total / np.sqrt(n)).transpose("chain", "draw", ...).values), 0.0, scale
    )


def _scalars(values):
    return xr.DataArray(values.reshape(*values.shape[:2], -1), dims=("chain", "draw", "scalar"))


def _test_moments(known):
    """Test first and second moments by batch means (Flegal & Jones 2010, section 3).

    The statistic is compared with Student's t, which accounts for the uncertainty of a standard
    error from few batches. A standard error from an estimated ESS has no such correction.
    """
    centered = known.draws.values - known.mean
    moments = [centered]
    if np.isfinite(known.sd):
        moments.append((centered / known.sd) ** 2 - 1)
    n_chain, n_draw, n_scalar = centered.shape
    n_batch = min(n_draw, max(BATCHES_PER_CHAIN, MIN_BATCHES // n_chain))
    length = n_draw // n_batch
    last = np.stack(moments)[:, :, n_draw - n_batch * length :]
    means = last.reshape(len(moments), -1, length, n_scalar).mean(axis=2)  # (moment, batch, scalar)
    n = means.shape[1]
    error, se = np.abs(means.mean(axis=1)), means.std(axis=1, ddof=1) / np.sqrt(n)
    exact = error < 1e-12  # for heads of size 1, the squared orientation is always 1
    t = np.where(exact, 0, error / np.where(exact, 1, se))
    return xr.Dataset(
        {
            "n": n_scalar,
            "exact_sd": known.sd,
            "sd": np.sqrt((centered**2).mean()),
            "t_max": t.max(),
            "p_value": min(1.0, t.size * 2 * student_t.sf(t.max(), n - 1)),
        }
    )
