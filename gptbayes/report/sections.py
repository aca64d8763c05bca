"""The five questions of a report, each answered from InferenceData."""

from __future__ import annotations

import json
from collections.abc import Mapping

import arviz as az
import numpy as np
import xarray as xr

from gptbayes import plots
from gptbayes.attention import attention_back, attention_draws, match_heads, summarise_attention
from gptbayes.diagnostics import (
    ALPHA,
    Diagnosis,
    Finding,
)
from gptbayes.inference import problem_of
from gptbayes.predict import (
    Comparison,
    compare_held_out,
    held_out_log_prob,
    loo,
    n_bad_pareto_k,
    next_character,
    unigram_log_density,
    write,
)
from gptbayes.report.blocks import Findings, Heading, Paragraph, Section, Table, picture, text
from gptbayes.summary import R_HAT_LIMIT, summarise
from gptbayes.symmetry import symmetries

METHOD_NAMES = {"nuts": "NUTS", "pathfinder": "Pathfinder", "optimize": "posterior mode"}
N_CONTEXTS = 3
TEXT_LENGTH = 120

_SYMMETRIES = {
    "rotate_stream": "rotations of the stream",
    "rotate_query_key": "rotations of queries with their keys",
    "rotate_value": "rotations of values with what reads them",
    "permute_heads": "the order of the heads",
}


def fitted(idata: az.InferenceData) -> Section:
    """What was fitted to what?"""
    problem = problem_of(idata)
    sizes = problem.design
    n_parameters = problem.stage.n_parameters(sizes)
    settings = json.loads(idata.attrs["settings"])
    versions = json.loads(idata.attrs["versions"])
    seconds = json.loads(idata.attrs["seconds"])
    rows = [
        ["text", problem.source],
        ["vocabulary", f"{sizes.vocab_size} characters"],
        [
            "fitted to",
            f"{sizes.batch_size} sequences of {sizes.block_size} characters, "
            f"{problem.n_targets} next characters in all, from the beginning of the text",
        ],
        ["held out", f"{len(problem.held_out.x)} sequences from the end of the text"],
        ["model", f"stage {problem.stage.number}, {problem.stage.title.lower()}"],
        [
            "parameters",
            f"{n_parameters} in {len(problem.stage.parameters)} arrays: {_arrays(problem)}",
        ],
        ["prior", f"independent normals; standard deviations {_scales(problem)}"],
        ["target", idata.attrs["target"]],
        ["method", f"{METHOD_NAMES[idata.attrs['method']]}, {_settings(settings)}"],
        ["started from", _start(idata, settings)],
        ["seed", str(idata.attrs["seed"])],
        ["versions", ", ".join(f"{name} {version}" for name, version in versions.items())],
    ]
    if np.isfinite(seconds).all():
        each = ", ".join(f"{second:.0f}" for second in seconds)
        rows.insert(-2, ["time in CmdStan", f"{each} s, of each chain or path"])
    blocks = [
        Paragraph(
            "The model reads the characters of a context and gives, at every position, a "
            "probability to each character that could come next. What it is made of are the "
            "weights below; they have a prior, the text has a likelihood, and this report is "
            "about the posterior."
        ),
        Table("The fit.", ["what", "value"], rows, words=True),
    ]
    if problem.n_targets < n_parameters:
        blocks.append(
            Paragraph(
                f"There are more parameters ({n_parameters}) than characters to learn from "
                f"({problem.n_targets}): much of what follows is the prior speaking."
            )
        )
    return Section("fit", "What was fitted to what?", blocks)


def believed(idata: az.InferenceData, diagnosis: Diagnosis) -> Section:
    """Can these draws be believed?"""
    blocks = [Findings(diagnosis.findings)]
    method = idata.attrs["method"]
    if method == "nuts":
        blocks += _nuts_checks(idata, diagnosis.health)
    elif method == "pathfinder":
        blocks += _pathfinder_checks(idata)
    if method != "optimize":
        blocks += [_known_answers_table(diagnosis.known_answers), *_loo_paragraph(idata)]
    return Section("believed", "Can these draws be believed?", blocks)


def says(
    idata: az.InferenceData, fits: Mapping[str, az.InferenceData], rng: np.random.Generator
) -> Section:
    """What does the model say next?"""
    problem = problem_of(idata)
    comparison = compare_held_out(fits)
    blocks = [
        _next_character_picture(idata, problem),
        Paragraph(
            f"Dots are posterior means, bars {_percent(0.9)} intervals over draws of the weights: "
            "how sure the posterior is of the probability, not how probable the character is."
        ),
        *_texts(idata, problem, rng),
        Heading("Held-out text"),
        *_held_out(idata, comparison),
    ]
    return Section("says", "What does the model say next?", blocks)


def looks(idata: az.InferenceData) -> Section:
    """Where does it look?"""
    problem = problem_of(idata)
    if "attention" not in problem.stage.features:
        note = f"Nowhere: stage {problem.stage.number} has no attention, stages 04 to 12 have."
        return Section("looks", "Where does it look?", [Paragraph(note)])
    contexts = problem.held_out.x[_spread(len(problem.held_out.x), 8)]
    summary = summarise_attention(idata, contexts)
    blocks = [
        Paragraph(
            "Attention weights say from which earlier characters a position takes what it passes "
            "on; each row sums to one. They are not an explanation of a prediction. Heads have no "
            "names in the posterior: each draw's heads were first matched to the others' by what "
            f"they do on the same {len(contexts)} held-out contexts."
        ),
        *_ambiguity(summary),
        _attention_picture(summary),
        *_roles(idata, contexts),
    ]
    return Section("looks", "Where does it look?", blocks)


def disagree(idata: az.InferenceData, diagnosis: Diagnosis) -> Section:
    """What do the chains disagree about?"""
    title = "What do the chains disagree about?"
    n_chain = idata.posterior.sizes["chain"]
    if n_chain < 2:
        note = {
            "pathfinder": "Pathfinder's draws are independent, there are no chains to compare.",
            "optimize": "A mode is one point, there is nothing to disagree.",
            "nuts": "There is one chain: run several to see whether they agree.",
        }[idata.attrs["method"]]
        return Section("disagree", title, [Paragraph(note)])
    table = diagnosis.convergence
    fig, (ax,) = plots.figure(height=1.1 * len(diagnosis.r_hats) + 0.8)
    plots.plot_r_hat(diagnosis.r_hats, limit=R_HAT_LIMIT, ax=ax)
    blocks = [
        Paragraph(_about_symmetry(problem_of(idata).stage)),
        picture(
            fig,
            alt=f"R-hat of {', '.join(diagnosis.r_hats)}",
            caption=f"R-hat of every scalar of each kind; the line is at {R_HAT_LIMIT}.",
        ),
        _convergence_table(table),
        Paragraph(_verdict(table)),
        _chain_table(idata),
    ]
    return Section("disagree", title, blocks)


def _nuts_checks(idata, health):
    fig, (ax,) = plots.figure(height=2.6)
    plots.plot_trace(idata.sample_stats["lp"], label="log posterior, nats", ax=ax)
    rows = [
        [
            str(k + 1),
            f"{int(health['divergences'][k])}",
            f"{int(health['max_treedepth_hits'][k])}",
            f"{float(health['e_bfmi'][k]):.2f}",
            f"{float(health['step_size'][k]):.3f}",
            f"{float(health['n_steps'][k]):.0f}",
            f"{float(health['acceptance_rate'][k]):.2f}",
        ]
        for k in range(health.sizes["chain"])
    ]
    columns = ["chain", "divergences", "at max tree depth", "E-BFMI", "step size"]
    return [
        picture(
            fig,
            alt="log posterior over the draws of each chain",
            caption="The log posterior, up to a constant, over the draws after warm-up.",
        ),
        Table("The sampler, chain by chain.", [*columns, "gradients per draw", "acceptance"], rows),
    ]


def _pathfinder_checks(idata):
    stats = idata.sample_stats
    ratios = (stats["lp"] - stats["lp_approx"]).values[0]
    path, lp = stats["path"].values[0], stats["lp"].values[0]
    rows = [
        [
            str(k + 1),
            f"{(path == k).sum()}",
            f"{lp[path == k].mean():.1f}",
            f"{lp[path == k].std():.1f}",
            f"{ratios[path == k].std():.1f}",
        ]
        for k in np.unique(path)
    ]
    caption = (
        "Paths: the log posterior of their draws, and the spread of the log importance ratio, "
        "which would be 0 were the approximation exact; nats."
    )
    columns = ["path", "draws", "mean log posterior", "sd", "sd of log ratio"]
    return [
        Table(caption, columns, rows),
        Paragraph(
            "The draws below are raw and equally weighted. Each path ends in one mode of many; "
            "draws of one path are independent, and R-hat means nothing for them."
        ),
    ]


def _known_answers_table(answers):
    rows = []
    for name in answers["direction"].values:
        row = answers.sel(direction=name)
        p = float(row["p_value"])
        rows.append(
            [
                str(name),
                f"{int(row['n'])}",
                f"{float(row['exact_sd']):.3f}",
                f"{float(row['sd']):.3f}",
                f"{float(row['z_max']):.1f}",
                _p_value(p) + (" (fails)" if p < ALPHA else ""),
            ]
        )
    caption = (
        "Tests with known answers: directions of weight space that no prediction depends on keep "
        "their prior exactly. Largest error of means and variances in Monte Carlo standard "
        "errors, and its p-value over all of them (Bonferroni)."
    )
    columns = ["direction", "how many", "exact sd", "sd of draws", "largest z", "p"]
    return Table(caption, columns, rows)


def _loo_paragraph(idata):
    result = loo(idata)
    bad, n = n_bad_pareto_k(result), len(result.pareto_k)
    text_ = (
        f"Leave-one-sequence-out by PSIS: elpd {result.elpd_loo:.1f}, standard error "
        f"{result.se:.1f} nats, effective parameters {result.p_loo:.1f}."
    )
    if not bad:
        return [Paragraph(f"{text_} Pareto k is at most 0.7 for all {n} sequences.")]
    warning = (
        f"{text_} Pareto k is above 0.7 for {bad} of {n} sequences, the figure is not reliable: "
        "use the held-out density below"
    )
    return [Findings([Finding(False, warning)])]


def _next_character_picture(idata, problem):
    at = _spread(len(problem.held_out.x), N_CONTEXTS)
    contexts = [problem.vocabulary.decode(problem.held_out.x[i]) for i in at]
    truth = [problem.vocabulary.decode(problem.held_out.y[i, -1:]) for i in at]
    fig, axes = plots.figure(len(contexts), width=9, height=3.6, columns=N_CONTEXTS)
    for ax, context, character in zip(axes, contexts, truth, strict=True):
        prior = next_character(idata, context, group="prior")
        plots.plot_next_character(next_character(idata, context), prior=prior, ax=ax)
        shown = "".join(plots.visible(c) for c in context)
        ax.set_title(
            f"after “{shown}”\nthe text has “{plots.visible(character)}”", fontsize="medium"
        )
    return picture(
        fig,
        alt="probabilities of the next character at three held-out contexts",
        caption="What comes next at three held-out contexts, posterior and prior. "
        "␣ is a space, ↵ a new line.",
    )


def _texts(idata, problem, rng):
    prompt = problem.vocabulary.decode(problem.held_out.x[0])
    blocks = [
        Heading("Written text"),
        Paragraph(
            "A coherent text is written by one draw of the weights from beginning to end. In a "
            "marginal text each character is drawn from the posterior mean of its probability, "
            "and no single model wrote it. The bar under a character goes from dark to light with "
            "its probability; a grey ground marks those whose probability the posterior does not "
            "know within 0.4. Point at a character for its numbers."
        ),
    ]
    wanted = (
        ("Coherent, one posterior draw", "coherent", "posterior"),
        ("Coherent, another posterior draw", "coherent", "posterior"),
        ("Marginal, the posterior mean", "marginal", "posterior"),
        ("For comparison, one draw from the prior", "coherent", "prior"),
    )
    if idata.attrs["method"] == "optimize":
        wanted = (("The mode", "coherent", "posterior"), wanted[-1])
    for title, kind, group in wanted:
        summary = write(idata, prompt, TEXT_LENGTH, rng, kind=kind, group=group)
        blocks.append(text(title, summary))
    return blocks


def _held_out(idata, comparison: Comparison):
    problem, table = problem_of(idata), comparison.table
    unigram, unigram_se = unigram_log_density(idata)
    uniform = -np.log(problem.design.vocab_size)
    fig, (ax,) = plots.figure(height=0.5 * table.sizes["fit"] + 1.4)
    yardsticks = {"uniform guess": uniform, "character frequencies": unigram}
    plots.plot_held_out(table, yardsticks=yardsticks, ax=ax)
    rows = []
    for name in table["fit"].values:
        row = table.sel(fit=name)
        first = name == table["fit"].values[0]
        rows.append(
            [
                str(name),
                f"{float(row['per_character']):.3f} ± {float(row['per_character_se']):.3f}",
                f"{float(row['elpd']):.1f} ± {float(row['se']):.1f}",
                "" if np.isnan(row["mcse"]) else f"{float(row['mcse']):.1f}",
                "" if first else _plus_minus(row["difference"], row["difference_se"]),
            ]
        )
    rows.append(["character frequencies", f"{unigram:.3f} ± {unigram_se:.3f}", "", "", ""])
    rows.append(["uniform guess", f"{uniform:.3f}", "", "", ""])
    caption = (
        f"Log predictive density of {table.attrs['n_sequence']} held-out sequences, "
        f"{table.attrs['n_character']} characters, in nats ± one standard error over sequences; "
        "differences are to the first row and paired. The unit is the sequence: the logarithm of "
        "the posterior mean of the probability of all its characters."
    )
    columns = ["fit", "per character", "sum", "Monte Carlo error", "difference"]
    found = [
        picture(fig, alt="held-out log density of the fits", caption="Two standard errors."),
        Table(caption, columns, rows),
    ]
    if table.attrs["n_sequence"] < 30:
        n = table.attrs["n_sequence"]
        found.append(
            Findings([Finding(False, f"only {n} held-out sequences: standard errors are rough")])
        )
    return found


def _ambiguity(summary):
    found = []
    for layer in range(summary.sizes["layer"]):
        if summary.sizes["head"] < 2:
            continue
        share = float(summary["ambiguous"][layer])
        which = f" in layer {layer + 1}" if summary.sizes["layer"] > 1 else ""
        sentence = f"the matching of heads{which} is ambiguous in {_percent(share)} of the draws"
        if share > 0.1:
            sentence += ": heads overlap, and a mean over draws mixes them"
        found.append(Finding(share <= 0.1, sentence))
    return [Findings(found)] if found else []


def _attention_picture(summary):
    heads = [(i, j) for i in range(summary.sizes["layer"]) for j in range(summary.sizes["head"])]
    shown = range(min(2, summary.sizes["sequence"]))
    fig, axes = plots.figure(
        len(heads) * len(shown),
        width=4.1 * min(len(heads), 2),
        height=4.0,
        columns=min(len(heads), 2),
    )
    panels = [(b, layer, head) for b in shown for layer, head in heads]
    for ax, (b, layer, head) in zip(axes, panels, strict=True):
        one = summary.isel(sequence=b, layer=layer, head=head)
        plots.plot_attention(one, text=str(summary["text"][b].values), ax=ax)
        name = f"head {head + 1}" + (f", layer {layer + 1}" if summary.sizes["layer"] > 1 else "")
        ax.set_title(name, fontsize="medium")
    return picture(
        fig,
        alt="mean attention weights of each head at two held-out contexts",
        caption=f"Mean attention weights, light is more; figures are {_percent(0.9)} intervals in "
        "per cent. Rows are positions, columns what they look at. The first position can only "
        "look at itself.",
    )


def _roles(idata, contexts):
    rows = []
    for group in ("posterior", "prior"):
        weights = match_heads(attention_draws(idata, contexts, group=group)).weights
        roles = {
            name: summarise(attention_back(weights, distance).mean("sequence"))
            for distance, name in enumerate(("itself", "the previous character"))
        }
        for layer in range(weights.sizes["layer"]):
            for head in range(weights.sizes["head"]):
                at = {"layer": layer, "head": head}
                cells = [_mean_interval(role.isel(at)) for role in roles.values()]
                rows.append([group, f"{layer + 1}", f"{head + 1}", *cells])
    caption = (
        "Attention of a position to itself and to the previous character, minus what a uniform "
        f"look at the context gives them, averaged over contexts and positions: mean and "
        f"{_percent(0.9)} interval. What the prior already does has not been learned."
    )
    return [Table(caption, ["", "layer", "head", *roles], rows)]


def _mean_interval(one: xr.Dataset):
    mean, lower, upper = (float(one[name]) for name in ("mean", "lower", "upper"))
    return f"{mean:+.2f} ({lower:+.2f} to {upper:+.2f})"


def _convergence_table(table):
    rows = []
    for name in table["quantity"].values:
        row = table.sel(quantity=name)
        rows.append(
            [
                str(name),
                f"{int(row['n'])}",
                f"{float(row['r_hat_median']):.3f}",
                f"{float(row['r_hat_max']):.3f}",
                _percent(float(row["share_above"])),
                f"{float(row['ess_bulk_min']):.0f}",
                f"{float(row['ess_tail_min']):.0f}",
            ]
        )
    caption = "Convergence of weights and of what they predict."
    columns = ["quantity", "scalars", "median R-hat", "largest R-hat", f"above {R_HAT_LIMIT}"]
    return Table(caption, [*columns, "smallest bulk ESS", "smallest tail ESS"], rows)


def _about_symmetry(stage):
    known = [_SYMMETRIES[name] for name in symmetries(stage)]
    if not known:
        return (
            f"No rotation or permutation of stage {stage.number}'s weights leaves all predictions "
            "as they are: R-hat of its weights means what it always does."
        )
    others = (
        " This stage has more of them, which are not taken out yet."
        if "feed_forward" in stage.features
        else ""
    )
    return (
        "Rotations and permutations of the weights leave every prediction and the prior as they "
        "are, so that chains may sit at different places of the same orbit. R-hat of raw weights "
        "measures that place; a large one is no fault and a small one no proof. In aligned "
        f"weights {', '.join(known)} are taken out, as far as one local alignment can.{others} "
        "Only log probabilities and the log posterior are free of symmetries altogether."
    )


def _verdict(table):
    def worst(name):
        return float(table.sel(quantity=name)["r_hat_max"])

    functions = max(worst("log probabilities"), worst("log posterior"))
    raw = worst("raw weights")
    limit = f"{R_HAT_LIMIT}"
    if functions <= R_HAT_LIMIT:
        if raw <= R_HAT_LIMIT:
            return f"The chains agree, in weights and in predictions: no R-hat is above {limit}."
        return (
            f"The chains agree about every prediction (largest R-hat {functions:.3f}) and differ "
            f"in weights (largest R-hat {raw:.2f}): what they disagree about is where on the orbit "
            "of the symmetries they are, or something that no training character's probability "
            "shows."
        )
    return (
        f"The chains do not yet agree about predictions: largest R-hat {functions:.3f}, above "
        f"{limit}. Slow mixing and separate modes both look like this; longer chains tell them "
        "apart. Do not read the disagreement of raw weights before this is mended."
    )


def _chain_table(idata):
    lp = idata.sample_stats["lp"]
    density = held_out_log_prob(idata).sum(("held_out_sequence", "position"))
    rows = []
    for k in range(lp.sizes["chain"]):
        lp_k, density_k = (summarise(each.isel(chain=[k])) for each in (lp, density))
        rows.append([str(k + 1), *(_mean_error_sd(each) for each in (lp_k, density_k))])
    caption = (
        "Chain by chain, in nats: mean ± Monte Carlo standard error, and sd over draws. Held-out "
        "log likelihood is that of a draw, averaged over draws; it is below the predictive density."
    )
    return Table(caption, ["chain", "log posterior", "held-out log likelihood"], rows)


def _mean_error_sd(one: xr.Dataset):
    mean, error, sd = (float(one[name]) for name in ("mean", "mcse_mean", "sd"))
    return f"{mean:.1f} ± {error:.1f} (sd {sd:.1f})"


def _start(idata, settings):
    if idata.attrs["method"] != "nuts":
        return "random points with twice the prior's standard deviation"
    if settings["init"] == "random":
        return "random points with twice the prior's standard deviation: over-dispersed"
    return (
        f"one draw each of {settings['chains']} different Pathfinder paths: not over-dispersed, "
        "agreement of the chains is weaker evidence than from random points"
    )


def headline(idata: az.InferenceData, diagnosis: Diagnosis) -> list[Finding]:
    """The warnings of a fit, or the one sentence that there are none."""
    warnings = [finding for finding in diagnosis.findings if not finding.ok]
    if idata.attrs["target"] != "posterior":
        warnings.insert(
            0, Finding(False, f"the target is not the posterior: {idata.attrs['target']}")
        )
    if warnings:
        return warnings
    return [Finding(True, "no diagnostic of these draws is out of its limits")]


def _arrays(problem):
    sizes = problem.stage.sizes(problem.design)
    shown = []
    for p in problem.stage.parameters:
        shown.append(f"{p.name} ({' × '.join(str(sizes[dim]) for dim in p.stan_dims)})")
    return ", ".join(shown)


def _scales(problem):
    families = dict.fromkeys(p.family for p in problem.stage.parameters)
    return ", ".join(f"{name} {getattr(problem.priors, name):.3g}" for name in families)


def _settings(settings):
    return ", ".join(f"{name} {value}" for name, value in settings.items() if name != "init")


def _spread(n, count):
    """Indices of ``count`` items spread over ``n``."""
    return np.unique(np.linspace(0, n - 1, min(n, count)).round().astype(int))


def _p_value(p):
    return "< 0.0001" if p < 1e-4 else f"{p:.2g}"


def _plus_minus(value, error):
    return f"{float(value):+.1f} ± {float(error):.1f}"


def _percent(share):
    return f"{100 * share:.0f} %"
