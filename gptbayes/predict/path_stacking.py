"""Stacking of Pathfinder's paths, for prediction."""

from __future__ import annotations

import arviz as az
import numpy as np
import xarray as xr

from gptbayes.findings import pareto_k_limit
from gptbayes.groups import pareto_smoothed
from gptbayes.predict.draw_weights import effective_draws, importance_ratios
from gptbayes.predict.leave_one_out import stacking_weights


def path_weights(idata: az.InferenceData) -> xr.DataArray:
    """Compute weights of Pathfinder's draws from stacking weights of its paths.

    Each path has a normal approximation of its own. Stacking finds the mixture of paths with the
    best leave-one-sequence-out predictions (Yao, Vehtari & Gelman 2022). The leave-one-out density
    of a sequence under a path is by importance sampling from the approximation, with weights
    p(θ, y) / (q(θ) p(y_i | θ)), Pareto smoothed (Magnusson et al. 2019).

    Parameters
    ----------
    idata : InferenceData
        From Pathfinder.

    Returns
    -------
    DataArray (chain, draw)
        Weights that sum to one; the draws of a path share its weight equally. ``attrs`` has
        ``per_path``, the stacking weights of the paths; ``ess_weights``, as of `psis_weights`; and
        ``n_bad_k``, the number of pairs of a path and a sequence with a Pareto k above its limit,
        of ``n_k``. If it is not 0, the stacking weights are unreliable.

    Raises
    ------
    ValueError
        If the fit is by another method, or a ratio or log likelihood is not finite.

    See Also
    --------
    stack_chains : The same for chains.
    psis_weights : Importance weights of all draws.
    """
    ratio = importance_ratios(idata, "path_weights").values[0]  # (draw,)
    log_lik = idata.log_likelihood["log_lik"].sum("position", skipna=False)
    log_lik = log_lik.transpose("chain", "draw", "sequence").values[0]
    if not np.isfinite(log_lik).all():
        raise ValueError("path_weights needs a finite log likelihood, got nan or infinity")
    origin = idata.sample_stats["path"]
    path = origin.values[0]
    elpds, ks = zip(
        *(_path_loo(ratio[path == k], log_lik[path == k]) for k in np.unique(path)), strict=True
    )
    weight = stacking_weights(np.stack(elpds))
    of_draw = weight[path] / np.bincount(path)[path]
    weights = xr.DataArray(
        of_draw[None], dims=("chain", "draw"), coords=origin.coords, name="weight"
    )
    k = np.stack(ks)
    return weights.assign_attrs(
        per_path=weight.tolist(),
        ess_weights=effective_draws(weights),
        n_bad_k=int((k > pareto_k_limit(int(np.bincount(path).min()))).sum()),
        n_k=k.size,
    )


def _path_loo(ratio, log_lik):
    """Leave-one-out log density of each sequence under a path, and its Pareto k."""
    smoothed = [pareto_smoothed(ratio - column) for column in log_lik.T]
    terms = [
        np.logaddexp.reduce(weights + column)
        for (weights, _), column in zip(smoothed, log_lik.T, strict=True)
    ]
    return np.array(terms), np.array([k for _, k in smoothed])
