"""The abstract of a report: one screen of sentences, written from the numbers of its sections."""

from __future__ import annotations

import json

import numpy as np

from gptbayes.attention.matching import MANY_AMBIGUOUS
from gptbayes.attention.roles import LEARNED_PROB
from gptbayes.diagnostics.sampler import pareto_k
from gptbayes.diagnostics.verdict import (
    DIFFERENT_PREDICTIONS,
    EQUAL_PREDICTIONS,
    MIXED,
    PREDICTIONS,
    STUCK,
    TOO_SHORT,
    UP_TO_SYMMETRY,
)
from gptbayes.findings import ESS_LIMIT, FEW_SEQUENCES, R_HAT_LIMIT, pareto_k_limit
from gptbayes.predict import n_bad_pareto_k
from gptbayes.report.analysis import CHAINS, Analysis
from gptbayes.report.blocks import Abstract, Summary, Table
from gptbayes.report.format import named_heads, p_value
from gptbayes.validate.exact_marginals import ALPHA

_VERDICTS = {
    MIXED: "The chains have mixed, weights included.",
    UP_TO_SYMMETRY: "The chains have mixed up to symmetries of the weights.",
    EQUAL_PREDICTIONS: "The chains are trapped in modes that predict the same.",
    DIFFERENT_PREDICTIONS: "The chains are trapped in modes that predict differently.",
    TOO_SHORT: "The chains are too short to tell whether they have mixed.",
    STUCK: "A chain never moves.",
}


def abstract(analysis: Analysis) -> Abstract:
    """Summarise a fit: what was fitted, how far to trust it, what it predicts and what it learned.

    Parameters
    ----------
    analysis : Analysis

    Returns
    -------
    Abstract
    """
    paragraphs = [
        Summary("Model and data", _model(analysis), "model"),
        Summary("Reliability", _reliability(analysis), "diagnostics"),
        Summary("Prediction", _prediction(analysis), "predictions"),
        *([Summary("Attention", _attention(analysis), "attention")] if _attends(analysis) else []),
        *([Summary("Modes", _modes(analysis), "chains")] if analysis.method in CHAINS else []),
        Summary("Not determined by this fit", _undetermined(analysis), "warnings"),
    ]
    return Abstract(paragraphs, _density_table(analysis))


def _attends(analysis):
    return analysis.has_attention and analysis.roles is not None


def _model(analysis):
    problem, sizes = analysis.problem, analysis.problem.design
    settings = json.loads(analysis.idata.attrs["settings"])
    n = analysis.n_chain * analysis.n_draw
    drawn = {
        "nuts": lambda: (
            f"NUTS drew {n:,} times from the posterior, in {analysis.n_chain} chains "
            f"of {analysis.n_draw:,} after {settings['iter_warmup']:,} iterations of warm-up."
        ),
        "smc": lambda: (
            f"Sequential Monte Carlo drew {n:,} times from the posterior, in "
            f"{analysis.n_chain} replicates."
        ),
        "pathfinder": lambda: (
            f"Pathfinder drew {n:,} times from normal approximations along "
            f"{settings['paths']} paths."
        ),
        "optimize": lambda: f"The mode is the best of {settings['starts']} starts of L-BFGS.",
        "prior": lambda: f"{n:,} draws are from the prior: the text was not used.",
    }[analysis.method]()
    target = analysis.idata.attrs["target"]
    power = "" if target in ("posterior", "prior") else f" The target is a {target}."
    return (
        f"Stage {problem.stage.number} of the ladder ({problem.stage.title.lower()}, "
        f"{analysis.n_parameters:,} weights) was fitted to {problem.n_targets:,} next characters "
        f"in {sizes.batch_size} sequences of {sizes.block_size}, from {problem.source}, with "
        f"{sizes.vocab_size} different characters. {drawn}{power}"
    )


def _reliability(analysis):
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
    if not np.isfinite(r_hat):
        return f"The effective sample size of {predictions} is at least {ess:.0f}."
    limits = "" if r_hat <= R_HAT_LIMIT and ess >= ESS_LIMIT else _limits(r_hat, ess)
    return (
        f"R-hat of {predictions} is at most {r_hat:.3f}, and their effective sample size at least "
        f"{ess:.0f}{limits}."
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
    if not n:
        return "No transition diverged."
    return f"{n} of {total:,} transitions diverged, so parts of the posterior may be unexplored."


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
    n, n_failed = p.size, int((p < ALPHA).sum())
    if not n:
        return "The draws are too few to be tested against exact marginals."
    if not n_failed:
        return (
            f"The draws pass all {n} tests against exact marginals (smallest p "
            f"{p_value(float(p.min()))})."
        )
    return (
        f"The draws fail {n_failed} of {n} tests against exact marginals (smallest p "
        f"{p_value(float(p.min()))})."
    )


def _prediction(analysis):
    table = analysis.held_out.table
    n, own = table.attrs["n_character"], table.isel(fit=0)
    found = [
        f"On {n} held-out characters the log predictive density is "
        f"{float(own['per_character']):.3f} ± {float(own['per_character_se']):.3f} nats per "
        f"character (standard error over {table.attrs['n_sequence']} sequences); a uniform guess "
        f"has {analysis.held_out.uniform:.3f}."
    ]
    better: list[str] = []
    worse: list[str] = []
    equal: list[str] = []
    for name in _compared(analysis)[1:]:
        one = table.sel(fit=name)
        gain, error = -float(one["difference"]), float(one["difference_se"])
        side = better if gain > 2 * error else worse if gain < -2 * error else equal
        side.append(name)
    found += _sides(better, worse, equal)
    calibration = analysis.calibration.findings[analysis.name][0].text
    found.append(f"Calibration: {calibration}.")
    return " ".join(found)


def _sides(better, worse, equal):
    """Which predictors a fit is better or worse than, in a sentence or two."""
    clear = [
        *([f"better than {_joined(better)}"] if better else []),
        *([f"worse than {_joined(worse)}"] if worse else []),
    ]
    found = []
    if clear:
        found.append(
            "By more than two standard errors of the paired difference, the fit is "
            f"{' and '.join(clear)}."
        )
    if equal:
        difference = "difference" if len(equal) == 1 else "differences"
        verb = "is" if len(equal) == 1 else "are"
        found.append(f"The {difference} to {_joined(equal)} {verb} within two standard errors.")
    return found


def _sentence(text):
    return f"{text[0].upper()}{text[1:]}"


def _compared(analysis):
    """Rows of the abstract: fits without weights, and the baselines of orders 0 and 1."""
    plain = [each.name for each in analysis.predictors if each.weights is None]
    return [*plain, *analysis.held_out.baselines[:2]]


def _density_table(analysis):
    table, names = analysis.held_out.table, _compared(analysis)
    pathfinder = [e.name for e in analysis.predictors if e.name.endswith("importance weighted")]
    names[-2:-2] = pathfinder
    n = table.attrs["n_character"]
    rows = []
    for name in names:
        row = table.sel(fit=name)
        difference, error = (float(row[each]) / n for each in ("difference", "difference_se"))
        rows.append(
            [
                name,
                f"{float(row['per_character']):.3f} ± {float(row['per_character_se']):.3f}",
                "" if name == names[0] else f"{difference:+.3f} ± {error:.3f}",
            ]
        )
    caption = "Held-out log predictive density, nats per character ± standard error."
    return Table(caption, ["", "density", "paired difference"], rows, "abstract")


def _attention(analysis):
    first = analysis.roles.ranks.isel(rank=0)
    more, less = [], []
    for role in first["role"].values:
        p, error = (
            float(first[name].sel(role=role)) for name in ("exceeds_prior", "exceeds_prior_mcse")
        )
        if p > LEARNED_PROB:
            more.append(f"{role} ({p:.2f} ± {error:.2f})")
        elif p < 1 - LEARNED_PROB:
            less.append(f"{role} ({1 - p:.2f} ± {error:.2f})")
    if more or less:
        sides = [
            *([f"more attention to the {_joined(more)}"] if more else []),
            *([f"less attention to the {_joined(less)}"] if less else []),
        ]
        learned = (
            f"Compared with the prior, the most specialised head of a draw pays "
            f"{' and '.join(sides)}; in parentheses the probability that a posterior draw differs "
            "from a prior draw in this direction."
        )
    else:
        learned = "No detection pattern distinguishes the heads from those of the prior."
    cost = analysis.head_ablation.average.sel(source="posterior")
    name, one = max(
        ((name, cost.isel(layer=la, head=h)) for la, h, name in named_heads(cost.sizes)),
        key=lambda each: float(each[1]["mean"]),
    )
    spread = (
        ""
        if np.isnan(one["lower"])
        else f" ({float(one['lower']):+.3f} to {float(one['upper']):+.3f})"
    )
    return (
        f"{learned} The head whose ablation costs most is {name}, with "
        f"{float(one['mean']):+.3f}{spread} nats per character."
    )


def _modes(analysis):
    if analysis.tempering is not None:
        return _masses(analysis)
    try:
        table, stacking = analysis.modes.table, analysis.stacking
    except ValueError:
        return "The chains cannot be compared."
    n = table.sizes["mode"]
    if n == 1:
        return (
            "The chains show one mode. A mode that no chain has visited would not be noticed; "
            "sequential Monte Carlo is a check."
        )
    whole = ", ".join(str(int(each)) for each in table["whole_chains"].values)
    held_out = ", ".join(f"{float(each):.1f}" for each in table["elpd"].values)
    weights = "" if stacking is None else " Stacking weights are in the section, for prediction."
    return (
        f"The chains stand in {n} modes ({whole} whole chains), with a held-out density of "
        f"{held_out} nats. The number of chains in a mode does not estimate its posterior mass."
        f"{weights}"
    )


def _masses(analysis):
    found = analysis.tempering
    table = found.masses.table
    masses = ", ".join(
        f"{float(row['mass']):.2f} ± {float(row['se']):.2f}"
        for row in (table.isel(mode=k) for k in range(table.sizes["mode"]))
    )
    n = table.sizes["mode"]
    text = f"There are {n} modes, with masses {masses}." if n > 1 else "There is one mode."
    if found.evidence is None:
        return text
    of = found.evidence
    return f"{text} The log evidence is {of.log_evidence:.2f} ± {of.se:.2f} nats."


def _undetermined(analysis):
    found = []
    n_sequence = analysis.held_out.table.attrs["n_sequence"]
    if n_sequence < FEW_SEQUENCES:
        found.append(
            f"small differences in prediction: {n_sequence} held-out sequences leave standard "
            "errors that are rough themselves"
        )
    if _attends(analysis) and analysis.problem.design.n_head > 1:
        share = float(analysis.matching.ambiguous.max())
        if share > MANY_AMBIGUOUS:
            found.append(
                f"which head does what: the matching of heads is ambiguous in {100 * share:.0f} % "
                "of the draws"
            )
    if analysis.loo is not None and n_bad_pareto_k(analysis.loo):
        n = len(analysis.loo["pareto_k"])
        found.append(
            f"the leave-one-out density: Pareto k is above its limit for "
            f"{n_bad_pareto_k(analysis.loo)} of {n} sequences"
        )
    if analysis.method == "nuts":
        found.append("the masses of modes, and the evidence, which sequential Monte Carlo gives")
    if analysis.problem.n_targets < analysis.n_parameters:
        found.append(
            f"most single weights: there are {analysis.n_parameters:,} of them and "
            f"{analysis.problem.n_targets:,} characters, and the prior has a strong influence"
        )
    if not found:
        return "Nothing that this report asks."
    return f"{_sentence('; '.join(found))}."


def _joined(names):
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
