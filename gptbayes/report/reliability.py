"""How far a fit can be relied on, in the sentences of an abstract."""

from __future__ import annotations

import numpy as np

from gptbayes.diagnostics.sampler import pareto_k
from gptbayes.diagnostics.verdict import (
    ALIGNED,
    DIFFERENT_PREDICTIONS,
    EQUAL_PREDICTIONS,
    MIXED,
    PREDICTIONS,
    STUCK,
    TOO_SHORT,
    UP_TO_SYMMETRY,
)
from gptbayes.findings import ESS_LIMIT, R_HAT_LIMIT, pareto_k_limit
from gptbayes.inference import settings_of
from gptbayes.report.analysis import CHAINS, Analysis
from gptbayes.report.format import p_value
from gptbayes.validate.exact_marginals import failed_directions, family_wise_p

_VERDICTS = {
    MIXED: "The chains agree, both in predictions and in weights.",
    UP_TO_SYMMETRY: "The chains agree up to symmetries of the weights.",
    EQUAL_PREDICTIONS: "The chains are trapped in modes with equal predictions.",
    DIFFERENT_PREDICTIONS: "The chains are trapped in modes with different predictions.",
    TOO_SHORT: "The chains are too short to tell whether they have mixed.",
    STUCK: "A chain never moves.",
}


def reliability(analysis: Analysis) -> str:
    """Say whether chains agree, approximations can be corrected, and exact marginals are met.

    Parameters
    ----------
    analysis : Analysis

    Returns
    -------
    str
    """
    found = []
    if analysis.method in CHAINS:
        found += [_verdict(analysis), _convergence(analysis), _divergences(analysis)]
    elif analysis.method == "pathfinder":
        found.append(_pareto(analysis))
    elif analysis.method == "optimize":
        found.append("A mode is a single set of weights: its predictions have no uncertainty.")
    else:
        found.append("The draws are independent.")
    return " ".join(each for each in [*found, _exact(analysis)] if each)


def _verdict(analysis):
    try:
        return _VERDICTS[analysis.verdict.name]
    except ValueError:
        return "The chains cannot be compared."


def _convergence(analysis):
    if analysis.n_chain < 2:
        return ""
    table = analysis.convergence
    predictions = PREDICTIONS[0]
    if predictions not in table["quantity"].values:
        return ""
    one = table.sel(quantity=predictions)
    r_hat, ess = float(one["r_hat_max"]), float(np.fmin(one["ess_bulk_min"], one["ess_tail_min"]))
    told = f"{predictions} of training characters"
    if not np.isfinite(r_hat):
        return f"The effective sample size of {told} is at least {ess:.0f}."
    limits = "" if r_hat <= R_HAT_LIMIT and ess >= ESS_LIMIT else _limits(r_hat, ess)
    return (
        f"R-hat of {told} is at most {r_hat:.3f}, and their effective sample size at least "
        f"{ess:.0f}{limits}.{_of_weights(table)}"
    )


def _of_weights(table):
    """Convergence of the weights up to symmetry, if it is not within the limits."""
    found = [name for name in ALIGNED if name in table["quantity"].values]
    if not found:
        return ""
    ours = table.sel(quantity=found)
    r_hat = float(ours["r_hat_max"].max())
    ess = float(np.fmin(ours["ess_bulk_min"], ours["ess_tail_min"]).min())
    if r_hat <= R_HAT_LIMIT and ess >= ESS_LIMIT:
        return ""
    return (
        f" For {' and '.join(found)} R-hat is up to {r_hat:.3f} and the smallest effective sample "
        f"size {ess:.0f}, so intervals of weights are rough."
    )


def _limits(r_hat, ess):
    wanted = [
        *([f"an R-hat of at most {R_HAT_LIMIT}"] if r_hat > R_HAT_LIMIT else []),
        *([f"an effective sample size of at least {ESS_LIMIT}"] if ess < ESS_LIMIT else []),
    ]
    return f"; reliable summaries need {' and '.join(wanted)}"


def _divergences(analysis):
    n = int(analysis.sampler_health["divergences"].sum())
    total = analysis.n_chain * analysis.n_draw
    thin = settings_of(analysis.idata).get("thin", 1)
    kept = f" that were kept, one in {thin}," if thin > 1 else ""
    if not n:
        return f"None of the transitions{kept} diverged." if kept else "No transition diverged."
    return (
        f"{n} of {total:,} transitions{kept} diverged, so parts of the posterior may be unexplored."
    )


def _pareto(analysis):
    k, effective = pareto_k(analysis.idata)
    if not np.isfinite(k):
        return "The importance ratios are not finite, so the approximation cannot be judged."
    able = "can" if k <= pareto_k_limit(analysis.n_draw) else "cannot"
    return (
        f"Pathfinder is an approximation. Pareto k of its importance ratios is {k:.1f}, so "
        f"importance weights {able} correct it ({effective:.0f} effective draws)."
    )


def _exact(analysis):
    checks = analysis.exact_marginals
    if checks is None:
        return ""
    p = checks["p_value"].dropna("direction")
    n, n_failed = p.size, int(failed_directions(checks).sum())
    if not n:
        return "The draws are too few to be tested against exact marginals."
    if not n_failed:
        tests = {1: "the test", 2: "both tests"}.get(n, f"all {n} tests")
        return (
            f"The draws pass {tests} against exact marginals (family-wise p "
            f"{p_value(family_wise_p(checks))})."
        )
    return (
        f"The draws fail {n_failed} of {n} tests against exact marginals (family-wise p "
        f"{p_value(family_wise_p(checks))})."
    )
