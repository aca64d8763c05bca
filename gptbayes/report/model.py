"""Section "Model and data"."""

from __future__ import annotations

import json

import numpy as np

from gptbayes.inference import MARKOV_CHAINS
from gptbayes.model.problem import Problem
from gptbayes.report.analysis import METHOD_NAMES, Analysis
from gptbayes.report.blocks import Paragraph, Section, Table


def model_section(analysis: Analysis) -> Section:
    """The model, its text, its prior, and how it was fitted."""
    problem, attrs = analysis.problem, analysis.idata.attrs
    n_parameters = analysis.n_parameters
    blocks = [
        Paragraph(
            "The model reads the characters of a context and assigns, at every position, a "
            "probability to each character that could come next. Its parameters are the weights "
            "listed below. The weights have a prior, the text gives the likelihood, and this "
            "report describes their posterior."
        ),
        Table("The fit.", ["what", "value"], _rows(analysis, problem, attrs), "fit", words=True),
    ]
    if problem.n_targets < n_parameters:
        blocks.append(
            Paragraph(
                f"There are more parameters ({n_parameters}) than characters to learn from "
                f"({problem.n_targets}): the prior has a strong influence on much of what follows."
            )
        )
    return Section("model", "Model and data", "What was fitted to what?", blocks)


def _rows(analysis, problem, attrs):
    sizes = problem.design
    settings, versions, seconds = (
        json.loads(attrs[name]) for name in ("settings", "versions", "seconds")
    )
    rows = [
        ["text", problem.source],
        ["vocabulary", f"{sizes.vocab_size} characters"],
        [
            "training data",
            f"{sizes.batch_size} sequences of {sizes.block_size} characters from the beginning of "
            f"the text, {problem.n_targets} next characters in all",
        ],
        ["held-out data", f"{len(problem.held_out.x)} sequences from the end of the text"],
        ["model", f"stage {problem.stage.number}, {problem.stage.title.lower()}"],
        [
            "parameters",
            f"{analysis.n_parameters} in {_arrays(problem)}",
        ],
        ["prior", prior_words(problem)],
        ["target", attrs["target"]],
        ["method", f"{METHOD_NAMES[analysis.method]}, {_settings(settings)}"],
        ["starting points", starting_points(analysis.method, settings)],
        *([["continued", continued]] if (continued := continuation(settings)) else []),
        ["likelihood", _KERNELS[attrs["kernels"]]],
        ["seed", str(attrs["seed"])],
        ["versions", ", ".join(f"{name} {version}" for name, version in versions.items())],
    ]
    if seconds and np.isfinite(seconds).all():
        each = ", ".join(f"{second:.0f}" for second in seconds)
        rows.insert(-2, ["time in CmdStan", f"{each} s, for each chain or path"])
    return rows


_KERNELS = {
    "stan": "computed by the Stan program",
    "c++": "computed by a C++ function with an analytic gradient, called from the Stan program",
    "numpy": "computed by numpy",
}
_OVER_DISPERSED = "random points with twice the standard deviation of the prior"


def continuation(settings: dict) -> str:
    """Say after how many iterations a run of NUTS or HMC was continued, nothing if it was not.

    Examples
    --------
    >>> continuation({"continued_after": [500, 1000]})
    'after 500 and 1000 iterations of each chain, with its step size and metric and a new seed'
    """
    after = settings.get("continued_after")
    if not after:
        return ""
    numbers = " and ".join(map(str, after))
    return f"after {numbers} iterations of each chain, with its step size and metric and a new seed"


def starting_points(method: str, settings: dict) -> str:
    """Where the chains, paths or optimisers of a fit started.

    Parameters
    ----------
    method : str
    settings : dict
        Of the fit, as its run directory keeps them.

    Returns
    -------
    str
    """
    if method == "prior":
        return "none, the draws are independent"
    if method == "smc":
        return "independent draws from the prior"
    if method not in MARKOV_CHAINS:
        return _OVER_DISPERSED
    n_chain, n_start = settings["chains"], settings.get("superchains") or settings["chains"]
    if settings["init"] == "random":
        points = f"over-dispersed {_OVER_DISPERSED}"
    else:
        source = {
            "pathfinder": "one draw from each of {n} Pathfinder paths",
            "optimize": "{n} posterior modes found from random points",
        }[settings["init"]].format(n=n_start)
        points = (
            f"{source}; they are not over-dispersed, so agreement of the chains is weaker evidence "
            "than from random points"
        )
    if n_start < n_chain:
        return f"{points}; {n_chain // n_start} chains share each of {n_start} starting points"
    return points


def _arrays(problem):
    sizes = problem.stage.sizes(problem.design)
    return ", ".join(
        f"{p.name} ({' × '.join(str(sizes[dim]) for dim in p.stan_dims)})"
        for p in problem.stage.parameters
    )


def prior_words(problem: Problem) -> str:
    """The prior of a problem, as it continues a sentence."""
    if any(p.prior == "log_gamma" for p in problem.stage.parameters):
        a = f"{problem.priors.concentration:.3g}"
        return (
            f"logits are logs of independent gamma({a}, 1) variables, so that the probabilities "
            f"after each character are Dirichlet({a}, …, {a})"
        )
    families = dict.fromkeys(p.family for p in problem.stage.parameters)
    scales = ", ".join(f"{name} {getattr(problem.priors, name):.3g}" for name in families)
    return f"independent normal; standard deviations {scales}"


def _settings(settings):
    hidden = ("init", "continued_after")
    shown = {k: v for k, v in settings.items() if k not in hidden and v is not None}
    return ", ".join(f"{name} {value}" for name, value in shown.items())
