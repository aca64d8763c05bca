"""The abstract of a report: one screen of sentences, written from the numbers of its sections."""

from __future__ import annotations

import numpy as np

from gptbayes.attention.matching import MANY_AMBIGUOUS
from gptbayes.attention.role_sentences import LEARNED_PROB
from gptbayes.diagnostics.verdict import TOO_SHORT
from gptbayes.findings import ESS_LIMIT, FEW_SEQUENCES, R_HAT_LIMIT, probability_words
from gptbayes.inference import MARKOV_CHAINS, settings_of
from gptbayes.predict import n_bad_pareto_k
from gptbayes.report.analysis import CHAINS, METHOD_NAMES, Analysis
from gptbayes.report.blocks import Abstract, Summary, Table
from gptbayes.report.format import interval, named_heads
from gptbayes.report.reliability import reliability


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
        Summary("Reliability", reliability(analysis), "diagnostics"),
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
    settings = settings_of(analysis.idata)
    n = analysis.n_chain * analysis.n_draw
    kept = f" (one in {thin} iterations)" if (thin := settings.get("thin", 1)) > 1 else ""
    drawn = {
        "nuts": lambda: (
            f"NUTS drew {n:,} times from the posterior, in {analysis.n_chain} chains "
            f"of {analysis.n_draw:,}{kept} after {settings['iter_warmup']:,} iterations of warm-up."
        ),
        "hmc": lambda: (
            f"HMC drew {n:,} times from the posterior, in {analysis.n_chain} chains "
            f"of {analysis.n_draw:,}{kept} after {settings['iter_warmup']:,} iterations of warm-up."
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
        side.append(_with_article(name))
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
        found.append(f"The {difference} from {_joined(equal)} {verb} within two standard errors.")
    return found


def _with_article(name):
    described = name.startswith((METHOD_NAMES["optimize"], "deep ensemble", "Dirichlet"))
    return f"the {name}" if described else name


def _sentence(text):
    return f"{text[0].upper()}{text[1:]}"


def _compared(analysis):
    """Fits without weights, and baselines."""
    plain = [each.name for each in analysis.predictors if each.weights is None]
    return [*plain, *analysis.held_out.baselines]


def _density_table(analysis):
    table, names = analysis.held_out.table, _compared(analysis)
    pathfinder = [e.name for e in analysis.predictors if e.name.endswith("importance weighted")]
    first = len(names) - len(analysis.held_out.baselines)
    names[first:first] = pathfinder
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
            more.append(f"{role} ({probability_words(p, error)})")
        elif p < 1 - LEARNED_PROB:
            less.append(f"{role} ({probability_words(1 - p, error)})")
    if more or less:
        sides = [
            *([f"above theirs for {_joined(more)}"] if more else []),
            *([f"below theirs for {_joined(less)}"] if less else []),
        ]
        learned = (
            "For each detection pattern, the head that follows it most is compared with that of "
            f"prior draws. Its attention is {' and '.join(sides)}; the number in parentheses is "
            "the probability that a posterior draw differs from a prior draw in this direction."
            f"{_roughness(analysis.roles)}"
        )
    else:
        learned = "No detection pattern distinguishes the heads from those of the prior."
    cost = analysis.head_ablation.average.sel(source="posterior")
    name, one = max(
        ((name, cost.isel(layer=la, head=h)) for la, h, name in named_heads(cost.sizes)),
        key=lambda each: float(each[1]["mean"]),
    )
    positive = ""
    if not np.isnan(one["lower"]):
        likely = probability_words(one["prob_positive"], one["prob_positive_mcse"])
        positive = f", positive with probability {likely}"
    return (
        f"{learned} The head whose ablation costs most is {name}: {interval(one, digits=3)} nats "
        f"per character{positive}."
    )


def _roughness(roles):
    """What is shaky in attention by detection pattern, if anything is."""
    ours = roles.ranks.sel(source="posterior")
    r_hat = float(ours["r_hat"].max())
    ess = float(np.fmin(ours["ess_bulk"].min(), ours["ess_tail"].min()))
    if not (r_hat > R_HAT_LIMIT or ess < ESS_LIMIT):
        return ""
    return (
        f" The probabilities are rough: R-hat is up to {r_hat:.3f} and the smallest ESS {ess:.0f}."
    )


def _modes(analysis):
    if analysis.tempering is not None:
        return _masses(analysis)
    try:
        groups = analysis.mode_groups
    except ValueError:
        return "The chains cannot be compared."
    if groups is None:
        short = analysis.verdict.name == TOO_SHORT
        seen = "are too short to separate modes" if short else "show one mode"
        return (
            f"The chains {seen}. A mode that no chain has visited would not be noticed; "
            "sequential Monte Carlo is a check."
        )
    table, n = analysis.modes.table, groups.n
    whole = ", ".join(str(int(each)) for each in table["whole_chains"].values)
    held_out = ", ".join(f"{float(each):.1f}" for each in table["elpd"].values)
    weights = (
        "" if analysis.stacking is None else " Stacking weights are in the section, for prediction."
    )
    return (
        f"The chains are in {n} modes ({whole} whole chains), with a held-out density of "
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
            f"small differences in prediction, because standard errors over {n_sequence} held-out "
            "sequences are rough"
        )
    if _attends(analysis) and analysis.problem.design.n_head > 1:
        share = float(analysis.matching.ambiguous.max())
        if share > MANY_AMBIGUOUS:
            found.append(
                "which head does what, because the matching of heads is ambiguous in "
                f"{100 * share:.0f} % of the draws"
            )
    if analysis.loo is not None and n_bad_pareto_k(analysis.loo):
        n = len(analysis.loo["pareto_k"])
        found.append(
            "the leave-one-out density, because Pareto k is above its limit for "
            f"{n_bad_pareto_k(analysis.loo)} of {n} sequences"
        )
    if analysis.method in MARKOV_CHAINS:
        found.append("the masses of modes and the evidence, which need sequential Monte Carlo")
    if analysis.problem.n_targets < analysis.n_parameters:
        found.append(
            f"most single weights, because {analysis.problem.n_targets:,} characters cannot "
            f"determine {analysis.n_parameters:,} weights and the prior has a strong influence"
        )
    if not found:
        return "Nothing that this report asks."
    return f"{_sentence('; '.join(found))}."


def _joined(names):
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
