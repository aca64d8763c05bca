"""The findings of a comparison: one sentence for each result or warning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr

from gptbayes.compare.refit_plan import FittedRun
from gptbayes.compare.refits import ExactLoo
from gptbayes.compare.tempered import Wbic
from gptbayes.diagnostics.sampler import log_lik_finding, pareto_finding, pareto_k
from gptbayes.findings import (
    R_HAT_LIMIT,
    Finding,
    convergence_finding,
    few_sequences_finding,
    pareto_k_limit,
    pareto_k_limit_words,
)
from gptbayes.inference import MARKOV_CHAINS, problem_of
from gptbayes.predict import Comparison
from gptbayes.stats.summary import convergence_of

CHARACTERS_PER_PARAMETER = 10
"""Characters per identifiable parameter below which asymptotic results come with a warning."""


def findings_of(
    runs: Sequence[FittedRun],
    table: xr.Dataset,
    loos: Mapping[str, ExactLoo],
    held_out: Comparison,
    wbics: Mapping[str, Wbic],
) -> list[Finding]:
    """State the results of a comparison, and warn of unreliable numbers.

    Parameters
    ----------
    runs : sequence of FittedRun
        In the order of the table.
    table, loos, held_out, wbics
        The attributes ``table``, ``loo``, ``held_out`` and ``wbic`` of
        `gptbayes.compare.RunComparison`.

    Returns
    -------
    list of Finding
    """
    found = []
    for run in runs:
        infinite = log_lik_finding(run.idata)
        found += [] if infinite is None else [Finding(False, f"{run.name}: {infinite.text}")]
        if run.name in loos:
            found += [*_refits(run.name, loos[run.name]), *_mixing(run)]
        elif run.idata.attrs["method"] == "pathfinder":
            found.append(_approximation(run))
    n = len(next(iter(loos.values())).psis["pareto_k"])
    found += _sequences(runs, n, held_out.table.attrs["n_sequence"])
    found += _differences(table, loos)
    found += _plug_in(runs, table, held_out)
    for name, result in wbics.items():
        found += _wbic(name, result)
    return [*found, *_asymptotics(wbics)] if wbics else found


def _refits(name, exact):
    n, n_refitted = len(exact.psis["pareto_k"]), exact.refits.sizes["sequence"]
    n_bad = exact.n_unreliable + n_refitted
    limit = pareto_k_limit_words(int(exact.psis["n_draws"]))
    if not n_bad:
        text = f"{name}: Pareto k is at most {limit}, for all {n} sequences; no refits"
        return [Finding(True, text)]
    change = exact.elpd["elpd_loo"] - exact.psis["elpd_loo"]
    text = f"{name}: Pareto k is above {limit}, for {n_bad} of {n} sequences"
    if n_refitted:
        error = float(np.sqrt((exact.refits["mcse"] ** 2).sum(skipna=False)))
        text += (
            f"; {n_refitted} refitted without that sequence, which changes elpd by {change:+.1f} "
            f"nats (Monte Carlo error of the refits {_error(error)})"
        )
    if exact.n_unreliable:
        text += f"; {exact.n_unreliable} not refitted: their terms and the elpd are not reliable"
    return [Finding(not exact.n_unreliable, text), *_refit_warnings(name, exact)]


def _refit_warnings(name, exact):
    warned = exact.refits_with_warnings
    n = warned.sizes["sequence"]
    if not n:
        return []
    worst, divergences = float(warned["r_hat"].max()), int(warned["divergences"].sum())
    n_heavy = int((warned["density_k"] > warned["density_k_limit"]).sum())
    reasons = []
    if worst > R_HAT_LIMIT:
        reasons.append(f"R-hat of the left-out log density up to {worst:.3f}")
    if divergences:
        reasons.append(f"{divergences} divergent transitions")
    if n_heavy:
        reasons.append(
            f"a few draws dominate the left-out density for {n_heavy} of them (Pareto k above "
            f"{float(warned['density_k_limit'].max()):.2g})"
        )
    sequences = ", ".join(str(int(i)) for i in warned["sequence"])
    text = (
        f"{name}: diagnostics are out of limits for {n} of {exact.refits.sizes['sequence']} refits "
        f"(sequence {sequences}): {', '.join(reasons)}; run longer chains"
    )
    return [Finding(False, text)]


def _mixing(run):
    """Convergence of the log densities of sequences, from which LOO is computed."""
    log_lik = run.idata.log_likelihood["log_lik"].sum("position", skipna=False)
    if log_lik.sizes["chain"] < 2:
        return [Finding(False, f"{run.name}: only one chain, its convergence cannot be assessed")]
    finding = convergence_of(f"{run.name}: log densities of training sequences", log_lik)
    return [] if finding.ok else [finding]


def _approximation(run):
    k, _ = pareto_k(run.idata)
    n_draws = run.idata.posterior.sizes["chain"] * run.idata.posterior.sizes["draw"]
    if not np.isfinite(k):
        return Finding(False, f"{run.name}: {pareto_finding(run.idata).text}")
    text = f"{run.name}: Pathfinder's Pareto k is {k:.2f}"
    if k <= pareto_k_limit(n_draws):
        return Finding(True, text)
    return Finding(
        False,
        f"{text}, above {pareto_k_limit_words(n_draws)}: its predictions are those of the "
        "approximation, not of the posterior",
    )


def _sequences(runs, n, n_held_out):
    counts = {"held-out sequences": n_held_out, "training sequences": n}
    found = [few_sequences_finding(count, what) for what, count in counts.items()]
    found = [each for each in found if each]
    if any("overlapping windows" in run.idata.attrs["source"] for run in runs):
        text = (
            "windows overlap: the characters of a sequence that is left out are also in its "
            "neighbors, so that elpd is too high"
        )
        found.append(Finding(False, text))
    return found


def _differences(table, loos):
    below = [str(name) for name in table["fit"].values if table["difference"].sel(fit=name) < 0]
    return [_difference(table, name, loos) for name in below]


def _difference(table, name, loos):
    row, best = table.sel(fit=name), str(table["fit"].values[0])
    value, error = -float(row["difference"]), float(row["difference_se"])
    text = f"elpd of {name} is {value:.1f} ± {error:.1f} nats below that of {best}"
    if value < 2 * error:
        text += ": within two standard errors, no clear difference"
    elif error > 0:
        text += f", {value / error:.1f} standard errors"
    unreliable = [each for each in (best, name) if loos[each].n_unreliable]
    if unreliable:
        text += f"; not reliable without all refits of {' and '.join(unreliable)}"
    return Finding(not unreliable, text)


def _plug_in(runs, table, held_out):
    """Compare predictions of each mode with the posterior predictions of the same stage."""
    found = []
    for mode in (run for run in runs if run.idata.attrs["method"] == "optimize"):
        for run in runs:
            if run.idata.attrs["method"] in MARKOV_CHAINS and _same_stage(run, mode):
                found.append(Finding(True, _plug_in_text(run.name, mode.name, table, held_out)))
    return found


def _plug_in_text(run, mode, table, held_out):
    difference = held_out.pointwise.sel(fit=mode) - held_out.pointwise.sel(fit=run)
    n = difference.size
    error = float(difference.std(ddof=1)) * np.sqrt(n) if n > 1 else np.nan
    training = table["training_per_character"]
    return (
        f"plugging in the mode ({mode}) in place of the posterior mean of {run} changes the "
        f"held-out log density by {float(difference.sum()):+.1f} ± {error:.1f} nats, and the "
        f"training log density by {float(training.sel(fit=mode) - training.sel(fit=run)):+.2f} "
        "nats per character"
    )


def _same_stage(one, other):
    one, other = problem_of(one.idata), problem_of(other.idata)
    return (one.stage, one.design) == (other.stage, other.design)


def _wbic(name, result):
    convergence = convergence_finding(
        "tempered chains", r_hat=result.r_hat, ess_bulk=result.ess_bulk
    )
    warnings = [] if convergence.ok and np.isfinite(result.r_hat) else [convergence.text]
    if result.divergences:
        warnings.append(f"{result.divergences} divergent transitions")
    text = (
        f"{name}: WBIC {result.wbic:.1f} nats, Monte Carlo error {_error(result.mcse)}; learning "
        f"coefficient {result.learning_coefficient:.1f}, Monte Carlo error "
        f"{_error(result.learning_coefficient_mcse)}, "
        f"relative to the largest known likelihood, that of {result.best_log_lik_source}"
    )
    return [Finding(not warnings, "; ".join([text, *warnings])), _bound(name, result)]


def _error(value):
    return f"{value:.1f}" if np.isfinite(value) else "unknown"


def _bound(name, result):
    if result.dimension is None:
        text = f"{name}: the model is too large to compute its null dimension, no bound"
        return Finding(False, text)
    rank, clear = result.dimension.rank, result.dimension.clear
    text = (
        f"{name}: {rank} of {result.dimension.n_parameters} parameters are identifiable; a regular "
        f"model with {rank} parameters has learning coefficient "
        f"{result.learning_coefficient_bound:g}"
    )
    if not clear:
        text += (
            "; the rank is uncertain, the gap between singular values is only a factor of "
            f"{result.dimension.gap:.0f}"
        )
    return Finding(clear, text)


def _asymptotics(wbics):
    """Warn if there are too few characters for asymptotic results."""
    n = next(iter(wbics.values())).n_characters
    ranks = {name: each.dimension.rank for name, each in wbics.items() if each.dimension}
    small = [name for name, rank in ranks.items() if n < CHARACTERS_PER_PARAMETER * rank]
    if not small:
        return []
    return [
        Finding(
            False,
            f"WBIC and learning coefficients are asymptotic: {n} characters are fewer than "
            f"{CHARACTERS_PER_PARAMETER} per identifiable parameter of {', '.join(small)}, and "
            "the influence of the prior is not negligible. The largest known likelihood is below "
            "the maximum, which biases the coefficient downward",
        )
    ]
