"""Stacking of chains that do not mix, for prediction."""

from __future__ import annotations

from typing import NamedTuple

import arviz as az
import numpy as np
import xarray as xr

from gptbayes.groups import select
from gptbayes.predict.held_out import held_out_log_prob
from gptbayes.predict.leave_one_out import compare_loo, loo, n_bad_pareto_k
from gptbayes.stats.summary import log_mean_exp

_GROUPS = ["posterior", "sample_stats", "log_likelihood"]


class ChainStacking(NamedTuple):
    """Stacking weights of chains, and the predictive density of the mixture.

    Attributes
    ----------
    chains : Dataset (chain)
        ``weight``, the stacking weight; ``uniform``, equal weights; ``elpd_loo`` in nats; and
        ``n_bad_k``, the number of sequences with a Pareto k above its limit. If it is not 0, elpd
        and weight are unreliable.
    held_out : Dataset (mixture)
        For the mixtures "stacked" and "uniform": ``elpd`` and its standard error ``se`` in nats on
        held-out text, which the weights do not depend on; ``difference`` from uniform weights and
        its paired standard error ``difference_se``.
    """

    chains: xr.Dataset
    held_out: xr.Dataset


def stack_chains(
    idata: az.InferenceData, *, log_density: xr.DataArray | None = None
) -> ChainStacking:
    """Compute stacking weights of chains (Yao, Vehtari & Gelman 2022).

    If chains do not move between modes, equal weights give each mode a weight that depends on
    where the chains started. Stacking finds the mixture of chains with the best
    leave-one-sequence-out predictions. Its weights are for prediction only and do not estimate
    posterior mass.

    Parameters
    ----------
    idata : InferenceData
        From MCMC.
    log_density : DataArray (chain, draw, held_out_sequence), optional
        `held_out_log_prob` summed over positions, if it has been computed already.

    Returns
    -------
    ChainStacking

    Raises
    ------
    ValueError
        If there are fewer than two chains, or a chain never moves, so that it has no
        leave-one-out density.

    See Also
    --------
    chain_weights : Weights of draws from weights of chains.
    compare_held_out : Takes these as its ``weights``.
    """
    lp = idata.sample_stats["lp"]
    n_chain = lp.sizes["chain"]
    if n_chain < 2:
        raise ValueError(f"stack_chains needs at least two chains, got {n_chain}")
    constant = np.flatnonzero(np.ptp(lp.transpose("chain", "draw").values, axis=1) == 0)
    if constant.size:
        raise ValueError(
            f"stack_chains needs chains that move, but chain {constant[0] + 1} never does"
        )
    loos = {str(c): loo(select(idata, _GROUPS, chain=[c])) for c in range(n_chain)}
    weight = compare_loo(loos)["weight"].sel(fit=list(loos)).values
    chains = xr.Dataset(
        {
            "weight": ("chain", weight / weight.sum()),
            "uniform": ("chain", np.full(n_chain, 1 / n_chain)),
            "elpd_loo": ("chain", [float(each["elpd_loo"]) for each in loos.values()]),
            "n_bad_k": ("chain", [n_bad_pareto_k(each) for each in loos.values()]),
        },
        {"chain": idata.posterior["chain"]},
    )
    if log_density is None:
        log_density = held_out_log_prob(idata).sum("position")
    return ChainStacking(chains, _mixtures(log_density, chains))


def _mixtures(log_density, chains):
    """Held-out elpd of mixtures, from log densities (chain, draw, held_out_sequence)."""
    of_chain = log_mean_exp(log_density, "draw")
    n_chain, n = of_chain.sizes["chain"], of_chain.sizes["held_out_sequence"]
    terms = np.stack(
        [
            log_mean_exp(of_chain + np.log(np.maximum(chains[w], 1e-300) * n_chain), "chain").values
            for w in ("weight", "uniform")
        ]
    )
    difference = terms - terms[1]
    scale = np.sqrt(n) if n > 1 else np.nan
    ddof = min(1, n - 1)
    return xr.Dataset(
        {
            "elpd": ("mixture", terms.sum(axis=1)),
            "se": ("mixture", terms.std(axis=1, ddof=ddof) * scale),
            "difference": ("mixture", difference.sum(axis=1)),
            "difference_se": ("mixture", difference.std(axis=1, ddof=ddof) * scale),
        },
        {"mixture": ["stacked", "uniform"]},
    )
