"""Section "Methods and references": what was run, in a paragraph that a paper can quote."""

from __future__ import annotations

import json

from gptbayes.findings import ESS_LIMIT, R_HAT_LIMIT, pareto_k_limit_words
from gptbayes.fit.hmc_statistics import JITTER
from gptbayes.inference import settings_of
from gptbayes.report.analysis import CHAINS, Analysis
from gptbayes.report.blocks import Bibliography, Paragraph, Section
from gptbayes.report.format import percent
from gptbayes.report.model import prior_words, starting_points
from gptbayes.report.references import bibtex


def methods_section(analysis: Analysis) -> Section:
    """A methods paragraph with every setting, and the references of what was run."""
    texts = [_model(analysis), _computation(analysis), *_beside(analysis), _assessment(analysis)]
    blocks = [*(Paragraph(text) for text in texts), Bibliography(bibtex(_keys(analysis)))]
    question = "How can this analysis be described and cited?"
    return Section("methods", "Methods and references", question, blocks)


def _model(analysis):
    problem, sizes = analysis.problem, analysis.problem.design
    weight = problem.likelihood_weight
    power = "" if weight == 1 else f" The likelihood is raised to the power {weight:g}."
    fixed = " Dropout masks are drawn once and are data." if problem.stage.masks else ""
    return (
        f"The model is stage {problem.stage.number} ({problem.stage.title.lower()}) of a ladder of "
        f"decoder-only transformers, with {analysis.n_parameters:,} parameters: "
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
    versions, seconds = (json.loads(attrs[name]) for name in ("versions", "seconds"))
    stan = f"CmdStan {versions['cmdstan']}" if "cmdstan" in versions else "numpy"
    kernels = {
        "c++": ", with the likelihood and its analytic gradient in C++",
        "stan": "",
        "numpy": "",
    }[attrs["kernels"]]
    time = ""
    if seconds and sum(seconds) >= 1:
        time = f" Computing time is {sum(seconds):.0f} s in total."
    version = versions.get("gptbayes", "of an unknown version")
    return (
        f"{_ran(analysis)} The software is gptbayes {version} with {stan}{kernels}; the seed is "
        f"{attrs['seed']}.{time}"
    )


def _beside(analysis):
    """The fits that this one is compared with."""
    found = []
    for each in analysis.beside:
        seed = each.idata.attrs["seed"]
        found.append(f"It is compared with {each.name}. {_ran(each)} The seed is {seed}.")
    return [" ".join(found)] if found else []


def _ran(analysis):
    """What was run, from where."""
    settings = settings_of(analysis.idata)
    ran = _METHODS[analysis.method](settings)
    if analysis.method == "prior":
        return ran
    return f"{ran} The starting points are {starting_points(analysis.method, settings)}."


def _nuts(settings):
    metric = settings.get("metric") or "prior"
    inverse = "the prior variances as inverse metric"
    return (
        f"The No-U-Turn sampler ran {settings['chains']} chains of {settings['iter_warmup']:,} "
        f"warm-up and {settings['iter_sampling']:,} sampling iterations{_kept(settings)}, with a "
        f"target acceptance of {settings['adapt_delta']:g}, a maximum tree depth of "
        f"{settings['max_treedepth']}, and "
        f"{inverse if metric == 'prior' else f'the metric {metric}'}."
    )


def _hmc(settings):
    return (
        f"Hamiltonian Monte Carlo with trajectories of {settings['trajectory_length']:.3g} prior "
        f"standard deviations, up to {100 * JITTER:.0f} % shorter or longer at random, ran "
        f"{settings['chains']} chains of {settings['iter_warmup']:,} warm-up and "
        f"{settings['iter_sampling']:,} sampling iterations{_kept(settings)}, with a target "
        f"acceptance of {settings['adapt_delta']:g} in the warm-up, which is by NUTS, and "
        "the prior variances as inverse metric."
    )


def _kept(settings):
    thin = settings.get("thin", 1)
    return f" (one in {thin} was kept)" if thin > 1 else ""


def _smc(settings):
    return (
        f"Waste-free sequential Monte Carlo went from the prior to the posterior in "
        f"{settings['replicates']} independent replicates, each with {settings['chains']} chains "
        f"of {settings['moves']} NUTS transitions at every level, and levels at which the weights "
        f"have an effective sample size of {settings['ess']:g} of the particles."
    )


_METHODS = {
    "nuts": _nuts,
    "hmc": _hmc,
    "smc": _smc,
    "pathfinder": lambda settings: (
        f"Pathfinder gave {settings['draws']:,} draws from each of {settings['paths']} paths, with "
        f"at most {settings['max_lbfgs_iters']:,} iterations of L-BFGS; the draws of all paths are "
        "pooled without weights."
    ),
    "optimize": lambda settings: (
        f"L-BFGS sought posterior modes from {settings['starts']} starting points, with at most "
        f"{settings['max_iterations']:,} iterations; the mode of largest density is the fit, and "
        "all modes with equal weights are the deep ensemble."
    ),
    "prior": lambda settings: f"There are {settings['draws']:,} independent draws from the prior.",
}


def _assessment(analysis):
    interval = percent(analysis.prob)
    found = []
    if analysis.method in CHAINS:
        found.append(
            "Convergence is assessed by rank-normalised split R-hat (at most "
            f"{R_HAT_LIMIT}) and effective sample size (at least {ESS_LIMIT}) of weights aligned "
            "over the symmetries of the model, of invariants, and of log probabilities of the "
            "training characters, and by R*."
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
        "hmc": ["duane1987hmc", "neal2011hmc"],
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
