"""What was fitted to what?"""

from __future__ import annotations

import json

import arviz as az
import numpy as np

from gptbayes.inference import problem_of
from gptbayes.report.blocks import Paragraph, Section, Table
from gptbayes.report.format import METHOD_NAMES


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
        ["prior", _prior(problem)],
        ["target", idata.attrs["target"]],
        ["method", f"{METHOD_NAMES[idata.attrs['method']]}, {_settings(settings)}"],
        ["started from", _start(idata, settings)],
        ["likelihood", _KERNELS[idata.attrs["kernels"]]],
        ["seed", str(idata.attrs["seed"])],
        ["versions", ", ".join(f"{name} {version}" for name, version in versions.items())],
    ]
    if seconds and np.isfinite(seconds).all():
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


_KERNELS = {
    "stan": "computed by the Stan program",
    "c++": "computed by a C++ function in the Stan program's place, with an analytic gradient",
    "numpy": "computed by numpy",
}


def _start(idata, settings):
    if idata.attrs["method"] == "prior":
        return "nowhere, draws are independent"
    if idata.attrs["method"] == "smc":
        return "independent draws from the prior"
    if idata.attrs["method"] != "nuts":
        return "random points with twice the prior's standard deviation"
    if settings["init"] == "random":
        return "random points with twice the prior's standard deviation: over-dispersed"
    return (
        f"one draw each of {settings['chains']} different Pathfinder paths: not over-dispersed, "
        "agreement of the chains is weaker evidence than from random points"
    )


def _arrays(problem):
    sizes = problem.stage.sizes(problem.design)
    shown = []
    for p in problem.stage.parameters:
        shown.append(f"{p.name} ({' × '.join(str(sizes[dim]) for dim in p.stan_dims)})")
    return ", ".join(shown)


def _prior(problem):
    if any(p.prior == "log_gamma" for p in problem.stage.parameters):
        a = f"{problem.priors.concentration:.3g}"
        return (
            f"logits are logs of independent gamma({a}, 1) variables, so that the probabilities "
            f"after each character are Dirichlet({a}, …, {a})"
        )
    families = dict.fromkeys(p.family for p in problem.stage.parameters)
    scales = ", ".join(f"{name} {getattr(problem.priors, name):.3g}" for name in families)
    return f"independent normals; standard deviations {scales}"


def _settings(settings):
    shown = {k: v for k, v in settings.items() if k != "init" and v is not None}
    return ", ".join(f"{name} {value}" for name, value in shown.items())
