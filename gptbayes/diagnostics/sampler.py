"""Diagnostics of NUTS, HMC and Pathfinder as findings.

Divergences, tree depth, E-BFMI, Pareto k and tests against exact marginals. Each diagnostic is one
`gptbayes.findings.Finding`, which is a warning if the number is outside its limit.
"""

from __future__ import annotations

import json

import arviz as az
import numpy as np
import xarray as xr

from gptbayes.findings import (
    E_BFMI_LIMIT,
    Finding,
    convergence_finding,
    pareto_k_limit,
    pareto_k_limit_words,
)
from gptbayes.inference import settings_of
from gptbayes.predict import psis_weights
from gptbayes.validate.exact_marginals import ALPHA, family_wise_p

PRIOR = Finding(True, "independent draws from the prior: convergence is not an issue")
ONE_CHAIN = Finding(False, "one chain: agreement between chains is unknown")
_DIVERGENT = "parts of the posterior may be unexplored, increase adapt_delta"
_DEPTH = "trajectories were truncated, which slows mixing; increase max_treedepth"
QUARTER = 0.5 * np.pi
"""Quarter of the period of a normal variable, in units of its sd: trajectories of this length give
independent draws of it."""
CORRELATION_LIMIT = 0.7
"""Largest correlation of successive iterations that trajectories of one length may cause."""
_ENERGY = "the sampler explores energy levels slowly, and the tails may be unexplored"


def mode_findings(idata: az.InferenceData) -> list[Finding]:
    """State that a mode is one point, and whether the optimizer converged to it.

    Parameters
    ----------
    idata : InferenceData
        A fit by optimization.

    Returns
    -------
    list of Finding
    """
    point = "a single point, the highest mode found, without uncertainty"
    found = [Finding(False, point)]
    converged = np.array(json.loads(idata.attrs.get("converged_of_starts", "[true]")))
    if not converged.all():
        shown = bool(converged[int(np.argmax(json.loads(idata.attrs["lp_of_starts"])))])
        text = (
            f"the optimizer stopped before it converged from {(~converged).sum()} of "
            f"{len(converged)} starting points, "
        )
        text += (
            "not from the one that is shown"
            if shown
            else "also from the one that is shown, which need not be a mode"
        )
        found.append(Finding(shown, text))
    return found


def sampler_health(idata: az.InferenceData) -> xr.Dataset:
    """Summarise the statistics of NUTS or HMC for each chain.

    Parameters
    ----------
    idata : InferenceData
        A fit by NUTS, HMC or sequential Monte Carlo.

    Returns
    -------
    Dataset (chain)
        ``divergences``, a number of draws; ``e_bfmi``; and means over draws of ``step_size``,
        ``n_steps`` (gradient evaluations), ``acceptance_rate`` and ``lp`` (log density in nats).
        Of NUTS also ``max_treedepth_hits``, a number of draws. Of HMC also the mean of
        ``trajectory_length``, in prior standard deviations, and ``turn_correlation``, the
        correlation of successive iterations of a parameter about which nothing was learned.
    """
    stats = idata.sample_stats
    if "tree_depth" in stats:
        limit = settings_of(idata)["max_treedepth"]
        lengths = {"max_treedepth_hits": (stats["tree_depth"] >= limit).sum("draw")}
    else:
        lengths = _of_lengths(stats)
    return xr.Dataset(
        {
            "divergences": stats["diverging"].sum("draw"),
            **lengths,
            "e_bfmi": _bfmi(stats),
            "step_size": stats["step_size"].mean("draw"),
            "n_steps": stats["n_steps"].mean("draw"),
            "acceptance_rate": stats["acceptance_rate"].mean("draw"),
            "lp": stats["lp"].mean("draw"),
        }
    )


def sampler_findings(idata: az.InferenceData, health: xr.Dataset) -> list[Finding]:
    """State the number of divergences, whether trajectories are long enough, and E-BFMI.

    A truncated trajectory of NUTS is a valid one (Hoffman & Gelman 2014). With the prior variances
    as inverse metric its length is known in units of prior standard deviations, and it is too short
    if that is less than a quarter of the period of a parameter about which nothing was learned. Of
    HMC, which does not choose lengths, the correlation that they cause is stated.

    Parameters
    ----------
    idata : InferenceData
        A fit by NUTS, HMC or sequential Monte Carlo.
    health : Dataset (chain)
        As of `sampler_health`.

    Returns
    -------
    list of Finding
    """
    n_draws = idata.posterior.sizes["chain"] * idata.posterior.sizes["draw"]
    settings = settings_of(idata)
    divergences, thin = int(health["divergences"].sum()), settings.get("thin", 1)
    if "max_treedepth_hits" in health:
        hits = int(health["max_treedepth_hits"].sum())
        length = _depth_finding(hits, n_draws, settings, health)
    else:
        length = _length_finding(health)
    divergent = _counted(divergences, n_draws, thin, "divergent transitions")
    return [
        Finding(divergences == 0, f"{divergent}: {_DIVERGENT}" if divergences else divergent),
        length,
        _energy_finding(float(health["e_bfmi"].min()), thin),
    ]


def log_lik_finding(idata: az.InferenceData) -> Finding | None:
    """Warn of draws whose log likelihood is not a finite number.

    Parameters
    ----------
    idata : InferenceData

    Returns
    -------
    Finding or None
        None if all are finite.
    """
    log_lik = idata.log_likelihood["log_lik"]
    bad = ~np.isfinite(log_lik).all(("sequence", "position"))
    if not bool(bad.any()):
        return None
    return Finding(
        False,
        f"log_lik is nan or infinite in {int(bad.sum())} of {bad.size} draws: averages of "
        "predictions over draws are undefined or rest on the other draws",
    )


def mixing_finding(table: xr.Dataset, quantity: str) -> Finding:
    """State R-hat and ESS of one kind of quantity.

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
    """Compute Pareto k of the importance ratios of Pathfinder draws (Vehtari et al. 2024).

    Parameters
    ----------
    idata : InferenceData
        A fit by Pathfinder.

    Returns
    -------
    tuple of float
        Pareto k over all paths, and the effective number of draws after weighting.
    """
    ratios = (idata.sample_stats["lp"] - idata.sample_stats["lp_approx"]).values
    if not np.isfinite(ratios).all():
        return float("inf"), 0.0
    found = psis_weights(idata).attrs
    return found["pareto_k"], found["ess_weights"]


def pareto_finding(idata: az.InferenceData) -> Finding:
    """State whether importance weights can correct the approximation of Pathfinder.

    Parameters
    ----------
    idata : InferenceData
        A fit by Pathfinder.

    Returns
    -------
    Finding
    """
    k, effective = pareto_k(idata)
    n_draws = idata.posterior.sizes["chain"] * idata.posterior.sizes["draw"]
    if not np.isfinite(k):
        return Finding(
            False,
            f"Pareto k of {n_draws} draw{'s' if n_draws > 1 else ''} is unknown, for they are too "
            "few or have importance ratios that are not finite: importance weights cannot correct "
            "this approximation",
        )
    text = f"Pareto k {k:.2f} over {n_draws} draws"
    if k <= pareto_k_limit(n_draws):
        return Finding(True, f"{text}; {effective:.0f} effective draws after importance weighting")
    return Finding(
        False,
        f"{text}, above {pareto_k_limit_words(n_draws)}: importance weights cannot correct "
        "this approximation, and its spread may differ from that of the posterior",
    )


def exact_marginals_finding(answers: xr.Dataset) -> Finding:
    """State whether draws agree with exact marginals of the posterior.

    Parameters
    ----------
    answers : Dataset (direction)
        As of `gptbayes.validate.exact_marginals.check_exact_marginals`.

    Returns
    -------
    Finding
    """
    p, n, n_tested = family_wise_p(answers), int(answers["n"].sum()), int(answers["n_tested"].sum())
    text = f"{n} scalars with a known exact posterior"
    if not n_tested:
        return Finding(False, f"too few effective draws to test {text}")
    if n_tested < n:
        text = f"{n_tested} of {text} (the others have too few effective draws for a test)"
    if p >= ALPHA:
        return Finding(True, f"{text} agree with it, family-wise p = {p:.2g}")
    worst = answers.isel(direction=int(np.nanargmin(answers["p_value"].values)))
    sds = f"sd {float(worst['sd']):.3f} (exact {float(worst['exact_sd']):.3f}), "
    return Finding(
        False,
        f"{text} disagree with it, most of all the {worst['direction'].values}: "
        f"{sds if np.isfinite(worst['exact_sd']) else ''}largest error "
        f"{float(worst['t_max']):.0f} Monte Carlo standard errors",
    )


def _counted(count, n_draws, thin, what):
    text = f"{count} {what} of {n_draws}"
    return text + (f", which are one in {thin} of all" if thin > 1 else "")


def _depth_finding(hits, n_draws, settings, health):
    """Whether trajectories were cut shorter than they should be."""
    counted = _counted(hits, n_draws, settings.get("thin", 1), "draws at maximum tree depth")
    if hits == 0:
        return Finding(True, counted)
    if (settings.get("metric") or "prior") != "prior":
        return Finding(False, f"{counted}: {_DEPTH}")
    length = float(health["step_size"].min()) * (2 ** settings["max_treedepth"] - 1)
    counted += f", whose trajectories are at least {length:.1f} prior standard deviations long"
    if length >= QUARTER:
        return Finding(True, f"{counted}, which is enough")
    return Finding(False, f"{counted}, less than a quarter of a period ({QUARTER:.1f}): {_DEPTH}")


def _of_lengths(stats):
    """How long trajectories of HMC are, and how strongly they correlate what was not learned.

    A leapfrog step of size e turns a standard normal variable by the angle 2 asin(e / 2), and a
    trajectory that turns it by t gives it a value whose correlation with the last one is cos t.
    """
    step, n_steps = stats["step_size"], stats["n_steps"]
    turned = n_steps * 2 * np.arcsin(np.minimum(step / 2, 1.0))
    return {
        "trajectory_length": (n_steps * step).mean("draw"),
        "turn_correlation": np.cos(turned).mean("draw"),
    }


def _length_finding(health):
    """Whether trajectories of HMC renew what nothing was learned about."""
    worst = health.isel(chain=int(np.argmax(abs(health["turn_correlation"].values))))
    length, correlation = float(worst["trajectory_length"]), float(worst["turn_correlation"])
    text = (
        f"trajectories are {length:.2f} prior standard deviations long on average, and successive "
        "iterations of a parameter about which nothing was learned have a correlation of "
        f"{correlation:.2f}"
    )
    if abs(correlation) <= CORRELATION_LIMIT:
        return Finding(True, text)
    how = "hardly moves" if correlation > 0 else "is mirrored more than renewed"
    better = f"choose a trajectory_length near {QUARTER:.1f}, a quarter of a period"
    return Finding(False, f"{text}: it {how}; {better}")


def _bfmi(stats):
    """Estimated Bayesian fraction of missing information of each chain (Betancourt 2016).

    Where a chain is a sequence of segments, each of which started at a particle, the first draw of
    a segment does not follow from the last draw of the one before.
    """
    energy = stats["energy"]
    if energy.sizes["draw"] < 2:
        return xr.full_like(energy.isel(draw=0, drop=True), np.nan, dtype=float)
    squares = energy.diff("draw") ** 2
    if "segment" in stats:
        squares = squares.where(stats["segment"].diff("draw") == 0)
    return squares.mean("draw") / energy.var("draw", ddof=1)


def _energy_finding(smallest, thin):
    if not np.isfinite(smallest):
        return Finding(False, "too few draws for E-BFMI, or draws that never move")
    text = f"smallest E-BFMI {smallest:.2f}"
    if thin > 1:  # draws that are further apart have energies that differ more
        text += " of thinned draws, which is too large for all iterations"
    if smallest >= E_BFMI_LIMIT:
        return Finding(True, text)
    return Finding(False, f"{text}, below {E_BFMI_LIMIT}: {_ENERGY}")
