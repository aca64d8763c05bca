"""Can these draws be believed? R-hat, ESS, divergences, E-BFMI, Pareto k, and words for them.

Weights are diagnosed raw, aligned, and through what they predict, side by side: the posterior is
invariant under a large group, raw weights measure the place on its orbits, and only predictions
have an R-hat that means convergence.
"""

from __future__ import annotations

import json
from typing import NamedTuple

import arviz as az
import numpy as np
import xarray as xr

from gptbayes.diagnostics.convergence import convergence
from gptbayes.diagnostics.tempering_health import path_findings
from gptbayes.findings import (
    E_BFMI_LIMIT,
    PARETO_K_LIMIT,
    Finding,
    convergence_finding,
)
from gptbayes.inference import parameters_of, problem_of
from gptbayes.predict import psis_weights
from gptbayes.stats.summary import r_hat
from gptbayes.symmetry import align, invariants, symmetries
from gptbayes.validate.exact_marginals import ALPHA, exact_marginals, family_wise_p


class Diagnosis(NamedTuple):
    """All that is to be known before believing a fit.

    Attributes
    ----------
    findings : list of Finding
        Warnings and good news alike.
    known_answers : Dataset (direction), or None for a mode
        See `gptbayes.validate.exact_marginals.exact_marginals`.
    health : Dataset (chain), or None
        See `sampler_health`; NUTS only.
    kinds : dict of str to DataArray (chain, draw, scalar), or None
        See `quantities`; NUTS of several chains only.
    r_hats : dict of str to DataArray (scalar), or None
        R-hat of every scalar of each kind of quantity; NUTS of several chains only.
    convergence : Dataset (quantity), or None
        See `gptbayes.diagnostics.convergence.convergence`; NUTS of several chains only.
    """

    findings: list[Finding]
    exact_marginals: xr.Dataset | None = None
    health: xr.Dataset | None = None
    kinds: dict[str, xr.DataArray] | None = None
    r_hats: dict[str, xr.DataArray] | None = None
    convergence: xr.Dataset | None = None


def diagnose(idata: az.InferenceData) -> Diagnosis:
    """Diagnose a fit of any method.

    Parameters
    ----------
    idata : InferenceData

    Returns
    -------
    Diagnosis
    """
    method = idata.attrs["method"]
    if method == "optimize":
        return Diagnosis([_METHODS[method]])
    answers = exact_marginals(idata)
    if method == "prior":
        return Diagnosis([_METHODS[method], _agreement_with(answers)], answers)
    if method == "pathfinder":
        return Diagnosis([_importance(idata), _agreement_with(answers)], answers)
    health = sampler_health(idata)
    found = [*_path(idata), *_sampler_findings(idata, health)]
    if idata.posterior.sizes["chain"] < 2:
        return Diagnosis([*found, _ONE_CHAIN, _agreement_with(answers)], answers, health)
    kinds = quantities(idata)
    r_hats = {name: r_hat(draws) for name, draws in kinds.items()}
    table = convergence(kinds, r_hats)
    found += [_mixing(table, name) for name in ("log probabilities", "log posterior")]
    return Diagnosis([*found, _agreement_with(answers)], answers, health, kinds, r_hats, table)


def quick_findings(idata: az.InferenceData) -> list[Finding]:
    """What must be said beside any number of a fit, and takes a second or two.

    Parameters
    ----------
    idata : InferenceData

    Returns
    -------
    list of Finding
        As of `diagnose`, without known answers and without weights.
    """
    method = idata.attrs["method"]
    if method in ("optimize", "prior"):
        return [_METHODS[method]]
    if method == "pathfinder":
        return [_importance(idata)]
    found = [*_path(idata), *_sampler_findings(idata, sampler_health(idata))]
    if idata.posterior.sizes["chain"] < 2:
        return [*found, _ONE_CHAIN]
    kinds = _predictions(idata)
    table = convergence(kinds)
    return [*found, *(_mixing(table, name) for name in kinds)]


def quantities(idata: az.InferenceData) -> dict[str, xr.DataArray]:
    """What `gptbayes.diagnostics.convergence.convergence` looks at, each ``(chain, draw, scalar)``.

    Returns
    -------
    dict of str to DataArray
        "raw weights", "aligned weights" where the stage has symmetries, "invariants" that no
        symmetry moves, "log probabilities" of every training character, "log posterior".
    """
    problem = problem_of(idata)
    parameters = parameters_of(idata)
    found = {"raw weights": _columns(parameters.values())}
    if symmetries(problem.stage):
        aligned = align(problem.stage, parameters).parameters
        found["aligned weights"] = _columns(aligned.values())
    parts = invariants(problem, parameters).values()
    found["invariants"] = _columns([part.values for part in parts])
    return {**found, **_predictions(idata)}


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
            "e_bfmi": ("chain", az.bfmi(idata)),
            "step_size": stats["step_size"].mean("draw"),
            "n_steps": stats["n_steps"].mean("draw"),
            "acceptance_rate": stats["acceptance_rate"].mean("draw"),
            "lp": stats["lp"].mean("draw"),
        }
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


def _path(idata):
    return path_findings(idata) if idata.attrs["method"] == "smc" else []


def _predictions(idata):
    return {
        "log probabilities": _columns([idata.log_likelihood["log_lik"].values]),
        "log posterior": _columns([idata.sample_stats["lp"].values[..., None]]),
    }


def _sampler_findings(idata, health):
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


def _mixing(table, name):
    row = table.sel(quantity=name)
    return convergence_finding(
        name,
        r_hat=float(row["r_hat_max"]),
        ess_bulk=float(row["ess_bulk_min"]),
        ess_tail=float(row["ess_tail_min"]),
    )


def _agreement_with(answers):
    p = family_wise_p(answers)
    text = f"{int(answers['n'].sum())} scalars whose posterior is known exactly"
    if p >= ALPHA:
        return Finding(True, f"{text} agree with it, family-wise p {p:.2g}")
    worst = answers.isel(direction=int(answers["p_value"].values.argmin()))
    sds = f"sd {float(worst['sd']):.3f}, exactly {float(worst['exact_sd']):.3f}, "
    return Finding(
        False,
        f"{text} were tested and disagree, worst the {worst['direction'].values}: "
        f"{sds if np.isfinite(worst['exact_sd']) else ''}largest error "
        f"{float(worst['t_max']):.0f} Monte Carlo standard errors",
    )


def _importance(idata):
    k, effective = pareto_k(idata)
    text = f"Pareto k {k:.2f} over {idata.posterior.sizes['draw']} draws"
    if k <= PARETO_K_LIMIT:
        return Finding(True, f"{text}; importance weights leave {effective:.0f} effective draws")
    return Finding(
        False,
        f"{text}, above {PARETO_K_LIMIT}: importance weights cannot correct this approximation, "
        "its spread is not the posterior's",
    )


_METHODS = {
    "optimize": Finding(
        False, "a single point, the best mode found: it has no uncertainty to show"
    ),
    "prior": Finding(
        True, "independent draws, made without the likelihood: there is nothing to converge"
    ),
}
_ONE_CHAIN = Finding(False, "one chain: nothing here says whether another would agree")
_DIVERGENT = "parts of the posterior were not explored, raise adapt_delta"
_DEPTH = "trajectories were cut short, mixing is slower than it could be"
_ENERGY = "the sampler moves slowly between energy levels, tails are under-explored"


def _count(count, n_draws, what, why):
    text = f"{count} {what} of {n_draws}"
    return Finding(count == 0, text if count == 0 else f"{text}: {why}")


def _columns(arrays):
    flat = [np.asarray(a).reshape(*np.shape(a)[:2], -1) for a in arrays]
    return xr.DataArray(np.concatenate(flat, axis=-1), dims=("chain", "draw", "scalar"))
