"""Diagnostics of the sampler and of Pathfinder, and what they mean in words.

Divergences, tree depth, E-BFMI, Pareto k and exact marginals: each number becomes one
`gptbayes.findings.Finding`, a warning where it is outside its limit.
"""

from __future__ import annotations

import json

import arviz as az
import numpy as np
import xarray as xr

from gptbayes.findings import E_BFMI_LIMIT, PARETO_K_LIMIT, Finding, convergence_finding
from gptbayes.predict import psis_weights
from gptbayes.validate.exact_marginals import ALPHA, family_wise_p

METHOD_FINDINGS = {
    "optimize": Finding(False, "a single point, the best mode found: it has no uncertainty"),
    "prior": Finding(True, "independent draws from the prior: there is nothing to converge"),
}
"""What is said of fits by methods that have no diagnostics."""
ONE_CHAIN = Finding(False, "one chain: whether another would agree is unknown")
_DIVERGENT = "parts of the posterior were not explored, raise adapt_delta"
_DEPTH = "trajectories were cut short, mixing is slower than it could be"
_ENERGY = "the sampler moves slowly between energy levels, tails are under-explored"


def sampler_health(idata: az.InferenceData) -> xr.Dataset:
    """What the sampler says of itself, chain by chain.

    Parameters
    ----------
    idata : InferenceData
        Of NUTS.

    Returns
    -------
    Dataset (chain)
        ``divergences`` and ``max_treedepth_hits`` (numbers of draws), ``e_bfmi``,
        ``step_size``, ``n_steps`` (mean gradients per draw), ``acceptance_rate``, ``lp`` (mean).
    """
    stats = idata.sample_stats
    limit = json.loads(idata.attrs["settings"])["max_treedepth"]
    return xr.Dataset(
        {
            "divergences": stats["diverging"].sum("draw"),
            "max_treedepth_hits": (stats["tree_depth"] >= limit).sum("draw"),
            "e_bfmi": _bfmi(stats["energy"]),
            "step_size": stats["step_size"].mean("draw"),
            "n_steps": stats["n_steps"].mean("draw"),
            "acceptance_rate": stats["acceptance_rate"].mean("draw"),
            "lp": stats["lp"].mean("draw"),
        }
    )


def sampler_findings(idata: az.InferenceData, health: xr.Dataset) -> list[Finding]:
    """Divergences, draws at maximum tree depth and E-BFMI, one sentence each.

    Parameters
    ----------
    idata : InferenceData
        Of NUTS.
    health : Dataset (chain)
        As of `sampler_health`.

    Returns
    -------
    list of Finding
    """
    n_draws = idata.posterior.sizes["chain"] * idata.posterior.sizes["draw"]
    divergences, hits = int(health["divergences"].sum()), int(health["max_treedepth_hits"].sum())
    worst = float(health["e_bfmi"].min())
    ok = worst >= E_BFMI_LIMIT
    text = f"smallest E-BFMI {worst:.2f}"
    return [
        _count(divergences, n_draws, "divergent transitions", _DIVERGENT),
        _count(hits, n_draws, "draws at maximum tree depth", _DEPTH),
        Finding(ok, text if ok else f"{text}, below {E_BFMI_LIMIT}: {_ENERGY}"),
    ]


def mixing_finding(table: xr.Dataset, quantity: str) -> Finding:
    """How far one kind of quantity can be relied on.

    Parameters
    ----------
    table : Dataset (quantity)
        As of `gptbayes.diagnostics.convergence.convergence`.
    quantity : str

    Returns
    -------
    Finding
    """
    row = table.sel(quantity=quantity)
    return convergence_finding(
        quantity,
        r_hat=float(row["r_hat_max"]),
        ess_bulk=float(row["ess_bulk_min"]),
        ess_tail=float(row["ess_tail_min"]),
    )


def pareto_k(idata: az.InferenceData) -> tuple[float, float]:
    """Pareto k of Pathfinder's importance ratios (Vehtari et al. 2024), over all paths.

    Parameters
    ----------
    idata : InferenceData
        Of Pathfinder.

    Returns
    -------
    tuple of float
        k, and the effective number of draws that the smoothed weights leave.
    """
    ratios = (idata.sample_stats["lp"] - idata.sample_stats["lp_approx"]).values
    if not np.isfinite(ratios).all():
        return float("inf"), 0.0
    found = psis_weights(idata).attrs
    return found["pareto_k"], found["ess_weights"]


def pareto_finding(idata: az.InferenceData) -> Finding:
    """Whether importance weights can correct Pathfinder's approximation.

    Parameters
    ----------
    idata : InferenceData
        Of Pathfinder.

    Returns
    -------
    Finding
    """
    k, effective = pareto_k(idata)
    text = f"Pareto k {k:.2f} over {idata.posterior.sizes['draw']} draws"
    if k <= PARETO_K_LIMIT:
        return Finding(True, f"{text}; importance weights leave {effective:.0f} effective draws")
    return Finding(
        False,
        f"{text}, above {PARETO_K_LIMIT}: importance weights cannot correct this approximation, "
        "its spread is not that of the posterior",
    )


def exact_marginals_finding(answers: xr.Dataset) -> Finding:
    """Whether draws agree with the exact marginals of the posterior.

    Parameters
    ----------
    answers : Dataset (direction)
        As of `gptbayes.validate.exact_marginals.check_exact_marginals`.

    Returns
    -------
    Finding
    """
    p, n, n_tested = family_wise_p(answers), int(answers["n"].sum()), int(answers["n_tested"].sum())
    text = f"{n} scalars whose posterior is known exactly"
    if not n_tested:
        return Finding(False, f"too few effective draws to test {text}")
    if n_tested < n:
        text = f"{n_tested} of {text} (the others have too few effective draws for a test)"
    if p >= ALPHA:
        return Finding(True, f"{text} agree with it, family-wise p {p:.2g}")
    worst = answers.isel(direction=int(np.nanargmin(answers["p_value"].values)))
    sds = f"sd {float(worst['sd']):.3f}, exactly {float(worst['exact_sd']):.3f}, "
    return Finding(
        False,
        f"{text} were tested and disagree, worst the {worst['direction'].values}: "
        f"{sds if np.isfinite(worst['exact_sd']) else ''}largest error "
        f"{float(worst['t_max']):.0f} Monte Carlo standard errors",
    )


def _count(count, n_draws, what, why):
    text = f"{count} {what} of {n_draws}"
    return Finding(count == 0, text if count == 0 else f"{text}: {why}")


def _bfmi(energy):
    """Estimated Bayesian fraction of missing information, chain by chain (Betancourt 2016)."""
    return (energy.diff("draw") ** 2).mean("draw") / energy.var("draw", ddof=1)
