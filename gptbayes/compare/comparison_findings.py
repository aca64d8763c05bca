"""A comparison in words: what it says, and what is shaky about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr

from gptbayes.compare.refits import ExactLoo, FittedRun
from gptbayes.compare.tempered import Wbic
from gptbayes.diagnostics.sampler import pareto_k
from gptbayes.findings import (
    PARETO_K_LIMIT,
    Finding,
    convergence_finding,
    few_sequences_finding,
)
from gptbayes.inference import problem_of
from gptbayes.predict import Comparison
from gptbayes.stats.summary import convergence_of

CHARACTERS_PER_PARAMETER = 10


def findings(
    fits: Sequence[FittedRun],
    table: xr.Dataset,
    loos: Mapping[str, ExactLoo],
    held_out: Comparison,
    wbics: Mapping[str, Wbic],
) -> list[Finding]:
    """What a comparison says, in the words of a statistician.

    Parameters
    ----------
    fits, table, loos, held_out, wbics
        As in `gptbayes.compare.Stages`.

    Returns
    -------
    list of Finding
    """
    found = []
    for run in fits:
        if run.name in loos:
            found += [*_refits(run.name, loos[run.name]), *_mixing(run)]
        elif run.idata.attrs["method"] == "pathfinder":
            found.append(_approximation(run))
    n = len(next(iter(loos.values())).psis["pareto_k"])
    found += _units(fits, n, held_out.table.attrs["n_sequence"])
    found += _differences(table, loos)
    found += _plug_in(fits, table, held_out)
    for name, each in wbics.items():
        found += _wbic(name, each)
    return [*found, *_asymptotics(wbics)] if wbics else found


def _refits(name, found):
    n, n_refitted = len(found.psis["pareto_k"]), found.refits.sizes["sequence"]
    n_bad = found.n_unreliable + n_refitted
    if not n_bad:
        words = f"{name}: Pareto k is at most {PARETO_K_LIMIT} for all {n} sequences, no refits"
        return [Finding(True, words)]
    moved = found.elpd["elpd_loo"] - found.psis["elpd_loo"]
    words = f"{name}: Pareto k is above {PARETO_K_LIMIT} for {n_bad} of {n} sequences"
    if n_refitted:
        error = float(np.sqrt((found.refits["mcse"] ** 2).sum()))
        words += (
            f"; {n_refitted} refitted without their sequence, which moved elpd by {moved:+.1f} "
            f"nats (Monte Carlo error of the refits {error:.1f})"
        )
    if found.n_unreliable:
        words += f"; {found.n_unreliable} not refitted: their terms and the elpd are not reliable"
    return [Finding(not found.n_unreliable, words), *_doubtful(name, found)]


def _doubtful(name, found):
    doubtful = found.doubtful
    if not doubtful.sizes["sequence"]:
        return []
    which = ", ".join(str(int(i)) for i in doubtful["sequence"])
    worst, divergences = float(doubtful["r_hat"].max()), int(doubtful["divergences"].sum())
    n_few = int((doubtful["density_k"] > PARETO_K_LIMIT).sum())
    return [
        Finding(
            False,
            f"{name}: doubtful themselves are {doubtful.sizes['sequence']} of "
            f"{found.refits.sizes['sequence']} refits (sequence {which}): R-hat of the left-out "
            f"log density up to {worst:.3f}, {divergences} divergent transitions, {n_few} "
            "means made up of a few draws (Pareto k above 0.7); run them longer",
        )
    ]


def _mixing(run):
    """The run itself, by what LOO is made of: log densities of sequences."""
    log_lik = run.idata.log_likelihood["log_lik"].sum("position")
    if log_lik.sizes["chain"] < 2:
        return [Finding(False, f"{run.name}: one chain, whether another would agree is unknown")]
    found = convergence_of(f"{run.name}: log densities of training sequences", log_lik)
    return [] if found.ok else [found]


def _approximation(run):
    k, _ = pareto_k(run.idata)
    words = f"{run.name}: Pathfinder's Pareto k is {k:.2f}"
    if k <= PARETO_K_LIMIT:
        return Finding(True, words)
    return Finding(
        False, f"{words}, its predictions are those of the approximation, not of the posterior"
    )


def _units(fits, n, n_held_out):
    counted = {"held-out sequences": n_held_out, "training sequences": n}
    found = [few_sequences_finding(count, what) for what, count in counted.items()]
    found = [each for each in found if each]
    if any("overlapping windows" in run.idata.attrs["source"] for run in fits):
        words = "windows overlap: a sequence that is left out is still there in its neighbours"
        found.append(Finding(False, f"{words}, elpd is too high"))
    return found


def _differences(table, loos):
    behind = [str(name) for name in table["fit"].values if table["difference"].sel(fit=name) < 0]
    return [_difference(table, name, loos) for name in behind]


def _difference(table, name, loos):
    row, best = table.sel(fit=name), str(table["fit"].values[0])
    value, error = -float(row["difference"]), float(row["difference_se"])
    words = f"{name} is {value:.1f} ± {error:.1f} nats of elpd behind {best}"
    if value < 2 * error:
        words += ": within two standard errors, no clear difference"
    elif error > 0:
        words += f", {value / error:.1f} standard errors"
    unreliable = [each for each in (best, name) if loos[each].n_unreliable]
    if unreliable:
        words += f"; not reliable before {' and '.join(unreliable)} have all their refits"
    return Finding(not unreliable, words)


def _plug_in(fits, table, held_out):
    """The mode beside the posterior mean of the same stage."""
    found = []
    for mode in (run for run in fits if run.idata.attrs["method"] == "optimize"):
        for run in fits:
            if run.idata.attrs["method"] == "nuts" and _same_stage(run, mode):
                found.append(Finding(True, _plug_in_words(run.name, mode.name, table, held_out)))
    return found


def _plug_in_words(run, mode, table, held_out):
    difference = held_out.pointwise.sel(fit=mode) - held_out.pointwise.sel(fit=run)
    n = difference.size
    error = float(difference.std(ddof=1)) * np.sqrt(n) if n > 1 else np.nan
    training = table["training_per_character"]
    return (
        f"plugging in the mode ({mode}) in place of the posterior mean of {run} changes the "
        f"held-out log density by {float(difference.sum()):+.1f} ± {error:.1f} nats, and the "
        f"training log density by {float(training.sel(fit=mode) - training.sel(fit=run)):+.2f} "
        "per character"
    )


def _same_stage(one, other):
    one, other = problem_of(one.idata), problem_of(other.idata)
    return (one.stage, one.design) == (other.stage, other.design)


def _wbic(name, found):
    mixed = convergence_finding("tempered chains", r_hat=found.r_hat, ess_bulk=found.ess_bulk)
    doubts = [] if mixed.ok and np.isfinite(found.r_hat) else [mixed.text]
    if found.divergences:
        doubts.append(f"{found.divergences} divergent transitions")
    words = (
        f"{name}: WBIC {found.wbic:.1f} nats, Monte Carlo error {found.mcse:.1f}; learning "
        f"coefficient {found.learning_coefficient:.1f} ± {found.learning_coefficient_mcse:.1f}, "
        f"with {found.best_from} as the best point known"
    )
    if doubts:
        words += f"; {'; '.join(doubts)}"
    return [Finding(not doubts, words), _bound(name, found)]


def _bound(name, found):
    if found.dimension is None:
        return Finding(False, f"{name}: too large a model for its null dimension, no bound")
    rank, clear = found.dimension.rank, found.dimension.clear
    words = (
        f"{name}: {rank} of {found.dimension.n_parameters} parameters are identifiable, a regular "
        f"model with as many has learning coefficient {found.bound:g}"
    )
    if not clear:
        words += f"; the rank is not clear, its gap is a factor of only {found.dimension.gap:.0f}"
    return Finding(clear, words)


def _asymptotics(wbics):
    """All that stands between these numbers and the theorems."""
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
            "the prior has as much to say as the text. The best point known is no maximum of the "
            "likelihood, which makes the coefficient small",
        )
    ]
