"""Section "Methods and references": what was run, in a paragraph that a paper can quote."""

from __future__ import annotations

import json

from gptbayes.findings import ESS_LIMIT, R_HAT_LIMIT, pareto_k_limit_words
from gptbayes.report.analysis import CHAINS, Analysis
from gptbayes.report.blocks import Bibliography, Paragraph, Section
from gptbayes.report.format import percent
from gptbayes.report.model import prior_words, starting_points
from gptbayes.report.references import bibtex


def methods_section(analysis: Analysis) -> Section:
    """A methods paragraph with every setting, and the references of what was run."""
    texts = [_model(analysis), _computation(analysis), _assessment(analysis)]
    blocks = [*(Paragraph(text) for text in texts), Bibliography(bibtex(_keys(analysis)))]
    question = "How can this analysis be described and cited?"
    return Section("methods", "Methods and references", question, blocks)


def _model(analysis):
    problem, sizes = analysis.problem, analysis.problem.design
    weight = problem.likelihood_weight
    power = "" if weight == 1 else f" The likelihood is raised to the power {weight:g}."
    fixed = " Dropout masks are drawn once and are data." if problem.stage.masks else ""
    return (
        f"The model is stage {problem.stage.number} of a ladder of decoder-only transformers, "
        f"{problem.stage.title.lower()}, with {analysis.n_parameters:,} parameters: "
        f"{_sizes(problem)}. Prior: {prior_words(problem)}. The likelihood is that of the "
        f"next character at each position of {sizes.batch_size} training sequences of "
        f"{sizes.block_size} characters from the beginning of {problem.source}; "
        f"{len(problem.held_out.x)} sequences from its end are held out.{power}{fixed}"
    )


def _sizes(problem):
    sizes, found = problem.design, [f"a vocabulary of {problem.design.vocab_size} characters"]
    found.append(f"contexts of {sizes.block_size} characters")
    names = {p.name for p in problem.stage.parameters}
    if "lm_head_multiplier" in names:
        found.append(f"embeddings of width {sizes.n_embed}")
    if "attention" in problem.stage.features:
        dims = problem.stage.sizes(sizes)
        found.append(f"{dims['layer']} layer{'s' if dims['layer'] > 1 else ''}")
        found.append(f"{dims['head']} head{'s' if dims['head'] > 1 else ''} per layer")
    return ", ".join(found)


def _computation(analysis):
    attrs = analysis.idata.attrs
    settings, versions, seconds = (
        json.loads(attrs[name]) for name in ("settings", "versions", "seconds")
    )
    ran = _METHODS[analysis.method](settings)
    stan = f"CmdStan {versions['cmdstan']}" if "cmdstan" in versions else "numpy"
    kernels = {
        "c++": ", with the likelihood and its analytic gradient in C++",
        "stan": "",
        "numpy": "",
    }[attrs["kernels"]]
    time = ""
    if seconds and sum(seconds) >= 1:
        time = f" It took {sum(seconds):.0f} s of computing in all."
    return (
        f"{ran} The starting points are {starting_points(analysis.method, settings)}. The software "
        f"is gptbayes {versions.get('gptbayes', 'of an unknown version')} with {stan}{kernels}; "
        f"the seed is {attrs['seed']}.{time}"
    )


def _nuts(settings):
    metric = settings.get("metric") or "prior"
    return (
        f"{settings['chains']} chains of the No-U-Turn sampler ran for "
        f"{settings['iter_warmup']:,} iterations of warm-up and {settings['iter_sampling']:,} of "
        f"sampling each, with a target acceptance of {settings['adapt_delta']:g}, a maximum tree "
        f"depth of {settings['max_treedepth']}, and the metric “{metric}”."
    )


def _smc(settings):
    return (
        f"{settings['replicates']} independent replicates of waste-free sequential Monte Carlo "
        f"went from the prior to the posterior, each with {settings['chains']} chains of "
        f"{settings['moves']} NUTS transitions at every level and an effective sample size of "
        f"the weights of {settings['ess']:g} of the particles."
    )


_METHODS = {
    "nuts": _nuts,
    "smc": _smc,
    "pathfinder": lambda settings: (
        f"{settings['paths']} paths of Pathfinder gave {settings['draws']:,} draws each, with at "
        f"most {settings['max_lbfgs_iters']:,} iterations of L-BFGS; paths are neither weighted "
        "nor resampled."
    ),
    "optimize": lambda settings: (
        f"L-BFGS sought posterior modes from {settings['starts']} starting points, with at most "
        f"{settings['max_iterations']:,} iterations; the mode of largest density is the fit, and "
        "all modes with equal weights are the deep ensemble."
    ),
    "prior": lambda settings: f"{settings['draws']:,} independent draws were taken from the prior.",
}


def _assessment(analysis):
    interval = percent(analysis.prob)
    found = []
    if analysis.method in CHAINS:
        found.append(
            "Convergence is assessed by rank-normalised split R-hat (at most "
            f"{R_HAT_LIMIT}) and effective sample size (at least {ESS_LIMIT}) of weights aligned "
            "over the symmetries of the model, of invariants, and of log probabilities at held-out "
            "contexts, and by R*."
        )
    elif analysis.method == "pathfinder":
        found.append(
            "The approximation is assessed by Pareto k of the importance ratios (at most "
            f"{pareto_k_limit_words(analysis.n_draw)})."
        )
    if analysis.exact_marginals is not None:
        found.append("Draws are tested against marginals that are known exactly.")
    n_position = analysis.problem.held_out.x.shape[1]
    found.append(
        f"Intervals are central {interval} intervals. Predictive accuracy is the log of the "
        "posterior mean of the probability of each held-out sequence; standard errors are over "
        "sequences and differences are paired. The baselines are Dirichlet-multinomial models of "
        f"order 0 to {min(2, n_position)} with concentrations of maximal evidence. Calibration is "
        "assessed against outcomes simulated from the predictions."
    )
    if analysis.has_attention:
        found.append(
            "Heads are matched across draws by their attention weights at held-out contexts, and "
            "compared with prior draws that are matched in the same way."
        )
    return " ".join(found)


def _keys(analysis):
    """Keys of the references of what this report shows."""
    methods = {each.method for each in (analysis, *analysis.beside)}
    tables = {
        "nuts": ["hoffman2014nuts", "betancourt2017hmc"],
        "smc": ["dau2022wastefree", "friel2014thermodynamic", "watanabe2013wbic"],
        "pathfinder": ["zhang2022pathfinder", "vehtari2024psis", "magnusson2019loo"],
        "optimize": ["lakshminarayanan2017ensembles"],
        "prior": [],
    }
    wanted = ["gptbayes", "vaswani2017attention"]
    if methods - {"prior"}:
        wanted.append("carpenter2017stan")
    for method in tables:
        wanted += tables[method] if method in methods else []
    if methods & set(CHAINS):
        wanted += ["vehtari2021rhat", "lambert2022rstar", "vehtari2017loo", "vehtari2024psis"]
    if analysis.sensitivity is not None:
        wanted.append("kallioinen2024psense")
    if any(each.weights is not None for each in analysis.predictors):
        wanted.append("yao2022stacking")
    if analysis.has_attention and analysis.rollout() is not None:
        wanted.append("abnar2020rollout")
    if analysis.drawn_next is not None:
        wanted.append("hullman2015hops")
    return list(dict.fromkeys([*wanted, "mackay1995dirichlet", "gneiting2007scores"]))
