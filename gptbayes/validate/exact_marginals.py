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
from scipy.special import erf, logsumexp, ndtri
from scipy.stats import beta, loggamma, norm
from scipy.stats import t as student_t

from gptbayes.groups import group
from gptbayes.inference import problem_of
from gptbayes.model.problem import Problem
from gptbayes.stats.mcmc import ess

ALPHA = 0.01
"""Family-wise error rate of the tests."""
MIN_BATCHES = 20
"""Of all chains together."""
ESS_PER_BATCH = 5
"""Effective draws below which the means of neighbouring batches are not nearly independent."""
TYPICAL_ESS_PER_BATCH = 8
"""The same, of the median scalar: the sizes of single ones are uncertain estimates."""
MAX_SCORE = 37.0
"""Normal tail probabilities further out are not numbers."""


class ExactMarginal(NamedTuple):
    """Draws of scalars of one kind, and their exact posterior moments.

    Attributes
    ----------
    draws : DataArray (chain, draw, scalar)
    mean : float
        Exact posterior mean of each scalar.
    sd : float
        Exact posterior standard deviation of each scalar; nan if only the mean is known.
    distribution : scipy frozen distribution, or None
        Exact marginal of each scalar; None if only its symmetry about the mean is known.
    """

    draws: xr.DataArray
    mean: float
    sd: float
    distribution: object | None = None


def check_exact_marginals(idata: az.InferenceData) -> xr.Dataset:
    """Test posterior draws against the marginals that are known exactly.

    Location and spread are compared in Monte Carlo standard errors, estimated by batch means.

    Parameters
    ----------
    idata : InferenceData

    Returns
    -------
    Dataset (direction)
        One item for each kind of scalar: their number ``n``, and how many of them were tested,
        ``n_tested``; ``exact_sd``, nan if only the mean is known; ``sd``, the root mean square
        deviation of all draws from the exact mean; ``t_max``, the largest standardized error; and
        its ``p_value``, Bonferroni-adjusted for all tests of
        the kind. The last two are nan if no scalar was tested.

    See Also
    --------
    family_wise_p : One p-value for all kinds together.
    gptbayes.validate.calibrate : Tests of all predictions, by many fits.

    Notes
    -----
    Location and spread of each scalar are tested by batch means (Flegal & Jones 2010, section 3)
    of two normal scores: that of its distribution function u, and that of |2 u - 1|, its distance
    from the median. Both scores are standard normal a posteriori, so that for independent draws
    the statistic follows Student's t exactly however few there are; squares in place of the
    second score are so skewed that it does not. Where only a symmetry of the distribution is
    known, the mean alone is tested. Among n symmetric batch means all signs agree with
    probability 2 / 2ⁿ, however small their spread, and no p-value is smaller than that.

    A scalar is tested if each of `MIN_BATCHES` batches is worth `ESS_PER_BATCH` independent draws
    by the scalar's effective sample size, and `TYPICAL_ESS_PER_BATCH` by the median size of its
    kind. Shorter batches of an autocorrelated chain are not independent, and the effective sample
    size of chains that disagree is small.

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
    known = known_marginals(problem_of(idata), group(idata, "posterior"))
    names = xr.DataArray(list(known), dims="direction", name="direction")
    return xr.concat([compare_moments(each) for each in known.values()], names)


def failed_directions(checks: xr.Dataset) -> xr.DataArray:
    """Find the kinds of scalars that disagree with their exact marginals.

    Parameters
    ----------
    checks : Dataset (direction)
        As `check_exact_marginals` returns it.

    Returns
    -------
    DataArray of bool (direction)
        At a family-wise level of `ALPHA`: some are True if and only if `family_wise_p` is below it.
    """
    return checks["p_value"] * checks.sizes["direction"] < ALPHA


def family_wise_p(checks: xr.Dataset) -> float:
    """Compute the smallest p-value of all kinds of scalars, Bonferroni-adjusted for the kinds.

    Parameters
    ----------
    checks : Dataset (direction)
        As `check_exact_marginals` returns it.

    Returns
    -------
    float
        nan if there are too few draws for any test.
    """
    return float(np.minimum(1.0, checks.sizes["direction"] * checks["p_value"].min()))


def known_marginals(problem: Problem, posterior: xr.Dataset) -> dict[str, ExactMarginal]:
    """Compute the scalars whose posterior mean or marginal is known exactly.

    Parameters
    ----------
    problem : Problem
    posterior : Dataset (chain, draw, ...)
        All parameters, with the dims of `gptbayes.model.parameters.Parameter`.

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
    if parameter.prior == "log_gamma":
        exact = _known(rows.values, loggamma(priors.concentration))
    else:
        exact = _known(rows.values, norm(priors.mean(parameter), priors.scale(parameter)))
    return {"embeddings of unseen characters": exact}


def _log_gamma_total(problem, logits):
    """A sum of gamma variables is gamma, and independent of their proportions (Lukacs 1955)."""
    total = logsumexp(logits.transpose("chain", "draw", "token", "embed").values, axis=-1)
    shape = problem.design.vocab_size * problem.priors.concentration
    return _known(total, loggamma(shape))


def _orientation(posterior):
    """Orientation of each head: its orthogonal factor under rotations of queries and keys.

    Scores depend on Q Kᵀ only and the prior is isotropic, so that (Q, K) and (Q G, K G) have the
    same posterior density for every orthogonal G. Let R be a fixed matrix. The orthogonal polar
    factor of Rᵀ (Q, K) is multiplied by G as well. It is therefore Haar-distributed on O(h): each
    element is a coordinate of a point that is uniform on the sphere, with variance 1 / h, and for
    h = 1 a random sign.
    """
    dims = ("chain", "draw", "layer", "head", "embed", "head_dim")
    pair = [posterior[name].transpose(*dims).values for name in ("query", "key")]
    stacked = np.concatenate(pair, axis=-2)  # (..., 2 C, h)
    reference = np.random.default_rng(0).normal(size=stacked.shape[-2:])
    left, _, right = np.linalg.svd(reference.T @ stacked)
    factor = left @ right  # (..., h, h)
    size = factor.shape[-1]
    if size == 1:
        return ExactMarginal(_scalars(factor), 0.0, 1.0)
    return _known(factor, beta((size - 1) / 2, (size - 1) / 2, loc=-1, scale=2))


def _mean_zero(draws):
    """The posterior is invariant when queries and keys change sign together: both have mean 0."""
    return ExactMarginal(_scalars(draws.transpose("chain", "draw", ...).values), 0.0, np.nan)


def _normal(total, n, scale):
    """A sum of ``n`` independent parameters, divided by √n: it has their prior sd, ``scale``."""
    return _known((total / np.sqrt(n)).transpose("chain", "draw", ...).values, norm(0.0, scale))


def _known(values, distribution):
    mean, sd = float(distribution.mean()), float(distribution.std())
    return ExactMarginal(_scalars(values), mean, sd, distribution)


def _scalars(values):
    return xr.DataArray(values.reshape(*values.shape[:2], -1), dims=("chain", "draw", "scalar"))


def compare_moments(known: ExactMarginal) -> xr.Dataset:
    """Test location and spread by batch means, see `check_exact_marginals`."""
    centered = known.draws.values - known.mean
    scores = _normal_scores(known)  # (moment, chain, draw, scalar)
    n_chain, n_draw, n_scalar = centered.shape
    n_batch = -(-MIN_BATCHES // n_chain)  # of each chain
    length, n = n_draw // n_batch, n_batch * n_chain
    enough = np.zeros((len(scores), n_scalar), bool)
    if length >= ESS_PER_BATCH:
        moves = (np.ptp(scores, axis=2) > 0).all(axis=1)
        sizes = np.stack([ess(each, "mean") for each in scores])
        worth = np.where(moves, np.fmin(sizes, n_chain * n_draw), 0.0) / n
        typical = np.median(worth, axis=1, keepdims=True) >= TYPICAL_ESS_PER_BATCH
        enough = (worth >= ESS_PER_BATCH) & typical
    t, p = np.nan, np.nan
    if enough.any():
        means = (
            scores[:, :, n_draw - n_batch * length :]
            .reshape(len(scores), n, length, n_scalar)
            .mean(axis=2)
        )  # (moment, batch, scalar)
        error, se = np.abs(means.mean(axis=1)), means.std(axis=1, ddof=1) / np.sqrt(n)
        with np.errstate(divide="ignore", invalid="ignore"):
            t = float((error / se)[enough].max())
        p = float(2 * student_t.sf(t, n - 1))
        if known.distribution is None:
            p = max(p, 2.0 ** (1 - n))
        p = min(1.0, enough.size * p)
    return xr.Dataset(
        {
            "n": n_scalar,
            "n_tested": int(enough.any(axis=0).sum()),
            "exact_sd": known.sd,
            "sd": np.sqrt((centered**2).mean()),
            "t_max": t,
            "p_value": p,
        }
    )


def _normal_scores(known):
    """Standard normal if the marginal is the exact one; (moment, chain, draw, scalar)."""
    values = known.draws.values
    if known.distribution is None:
        return (values - known.mean)[None]
    location = known.distribution.cdf(values)
    upper = location >= 0.5  # where only the other tail is exact
    location[~upper] = ndtri(location[~upper])
    location[upper] = -ndtri(known.distribution.sf(values[upper]))
    location = np.clip(location, -MAX_SCORE, MAX_SCORE)
    far = np.abs(location)
    near_half = np.maximum(erf(far / np.sqrt(2)), np.finfo(float).tiny)  # |2 u - 1|
    spread = np.where(far < 1, ndtri(near_half), -ndtri(2 * norm.sf(far)))
    return np.stack([location, spread])
