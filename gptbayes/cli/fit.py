"""`gptbayes fit`."""

from __future__ import annotations

import shlex
from pathlib import Path

from gptbayes import corpus, fit
from gptbayes.cli.scheduler import dask_executor
from gptbayes.cli.terminal import OUT, describe, print_findings
from gptbayes.inference import settings_of
from gptbayes.model.problem import make_problem
from gptbayes.model.stages import stage
from gptbayes.progress import progress_bars
from gptbayes.report.analysis import Analysis
from gptbayes.report.model import continuation

METHODS = ("nuts", "hmc", "pathfinder", "optimize", "prior", "smc")
_OF_CHAINS = {
    "chains": "chains",
    "superchains": "superchains",
    "warmup": "iter_warmup",
    "draws": "iter_sampling",
    "thin": "thin",
    "init": "init",
    "adapt_delta": "adapt_delta",
    "kernels": "kernels",
    "only": "only",
}
OPTIONS = {
    "nuts": {**_OF_CHAINS, "metric": "metric", "max_treedepth": "max_treedepth"},
    "hmc": {**_OF_CHAINS, "trajectory_length": "trajectory_length"},
    "pathfinder": {"paths": "paths", "draws": "draws", "kernels": "kernels", "only": "only"},
    "optimize": {"starts": "starts", "kernels": "kernels", "only": "only"},
    "prior": {"draws": "draws"},
    "smc": {
        "replicates": "replicates",
        "chains": "chains",
        "moves": "moves",
        "metric": "metric",
        "max_treedepth": "max_treedepth",
        "kernels": "kernels",
    },
}
"""The options of each method, and what the function of that name calls them."""


def add_arguments(parser) -> None:
    add = describe(
        parser,
        _fit,
        description="Fit a stage to a text. An interrupted fit resumes when the same command is "
        "given again; with more --draws, a finished one of NUTS or HMC is continued.",
        examples="""
            gptbayes fit --stage 05 --method nuts --out runs/05
            gptbayes fit --stage 03 --text hamlet.txt --lower --batch-size 64 --method pathfinder
            gptbayes fit --stage 04 --n-embed 4 --prior attention=0.3 --init random
            gptbayes fit --stage 04 --chains 32 --superchains 8 --init optimize --draws 100
            gptbayes fit --stage 05 --method hmc --draws 4000 --thin 4 --out runs/05-hmc
            gptbayes fit --stage 05 --method smc --replicates 4 --out runs/05-smc
            gptbayes fit --stage 12 --method prior --prior lm_head=2 --out runs/12-prior
        """,
    )
    add("--stage", required=True, help="01 to 12 or 01-log-gamma, see: gptbayes stages")
    add("--method", choices=METHODS, default="nuts")
    add("--out", type=Path, help="run directory (runs/STAGE-METHOD)")
    add("--seed", type=int, default=1, help="default 1")
    add(
        "--scheduler",
        metavar="ADDRESS",
        help="a Dask scheduler, tcp://HOST:PORT or its file FILE.json, whose workers run the units",
    )
    _add_text_options(parser.add_argument_group("text"))
    _add_model_options(parser.add_argument_group("model"))
    _add_method_options(parser.add_argument_group("method"))


def _fit(arguments):
    options = _options(arguments)
    if arguments.scheduler is not None and arguments.method == "prior":
        raise ValueError("--scheduler has no effect with method prior, which runs on this machine")
    problem = _problem(arguments)
    out = arguments.out or Path("runs") / f"{problem.stage.number}-{arguments.method}"
    method = getattr(fit, arguments.method)
    if arguments.method == "prior":
        folder = fit.prior(problem, out, seed=arguments.seed, **options)
    else:
        with dask_executor(arguments.scheduler) as executor, progress_bars() as on_progress:
            options |= {"executor": executor, "on_progress": on_progress}
            folder = method(problem, out, seed=arguments.seed, **options)
    if arguments.only is not None:
        rest = "the same command without --only runs what is missing and completes the run"
        OUT.print(f"{folder}: {arguments.only} is done; {rest}", soft_wrap=True)
        return
    analysis = Analysis.of_run(folder)
    print_findings(analysis.findings)
    if told := continuation(settings_of(analysis.idata)):
        OUT.print(f"continued {told}", soft_wrap=True)
    following = f"gptbayes report {shlex.quote(str(folder))}"
    OUT.print(f"{folder}: done; next: {following}", soft_wrap=True)


def _options(arguments):
    """The options of the method that were given; those of other methods are refused."""
    having = {
        option: [method for method in METHODS if option in OPTIONS[method]]
        for option in dict.fromkeys(name for names in OPTIONS.values() for name in names)
    }
    given = {option: getattr(arguments, option) for option in having}
    given = {option: value for option, value in given.items() if value is not None}
    for option in given:
        if arguments.method not in having[option]:
            raise ValueError(
                f"--{option.replace('_', '-')} has no effect with method {arguments.method}; "
                f"{' and '.join(having[option])} {'has' if len(having[option]) == 1 else 'have'} it"
            )
    return {OPTIONS[arguments.method][option]: value for option, value in given.items()}


def _problem(arguments):
    if arguments.text is None:
        text, source = corpus.zen_of_python(), "the Zen of Python"
    else:
        text, source = corpus.read_text(arguments.text), corpus.source_name(arguments.text)
    if arguments.lower:
        text, source = text.lower(), f"{source}, lower case"
    if arguments.characters is not None:
        text = corpus.keep_frequent(text, arguments.characters)
        source = f"{source}, its {arguments.characters} most frequent characters"
    chosen = stage(arguments.stage)
    if arguments.method == "prior" and arguments.likelihood_weight is not None:
        raise ValueError(
            "--likelihood-weight has no effect with method prior, whose likelihood weight is 0"
        )
    return make_problem(
        chosen,
        text,
        source=source,
        block_size=arguments.block_size,
        batch_size=arguments.batch_size,
        stride=arguments.stride,
        held_out_fraction=arguments.held_out,
        n_embed=arguments.n_embed,
        n_head=arguments.n_head,
        n_layer=arguments.n_layer,
        scales=dict(_scale(each) for each in arguments.prior),
        likelihood_weight=_given(arguments.likelihood_weight, 1.0),
        n_new_tokens=arguments.new_tokens,
        dropout=arguments.dropout,
        **chosen.applicable(mask_seed=arguments.seed),
    )


def _given(value, default):
    return default if value is None else value


def _scale(text):
    name, _, value = text.partition("=")
    try:
        return name, float(value)
    except ValueError:
        raise ValueError(f"--prior must be FAMILY=SCALE, got {text!r}") from None


def _add_text_options(group):
    add = group.add_argument
    add("--text", metavar="FILE", help="UTF-8 text (the Zen of Python)")
    add("--lower", action="store_true", help="lower-case the text")
    add("--characters", type=int, metavar="K", help="keep the K most frequent, □ for the others")
    add("--block-size", type=int, default=8, help="length of the context, T (8)")
    add("--batch-size", type=int, help="training sequences, B (at most 64)")
    add("--stride", type=int, help="distance of windows; below T they overlap (T: disjoint)")
    add("--held-out", type=float, default=0.2, metavar="SHARE", help="of the text, its end (0.2)")


def _add_model_options(group):
    add = group.add_argument
    add("--n-embed", type=int, help="width of the model, C, from stage 02 on (8)")
    add("--n-head", type=int, help="attention heads, H, from stage 05 on (2)")
    add("--n-layer", type=int, help="blocks, L, from stage 10 on (2)")
    add(
        "--prior",
        action="append",
        default=[],
        metavar="FAMILY=SCALE",
        help="a prior sd: token_embedding, position_embedding, attention, attention_proj, "
        "feed_forward, lm_head, offset or layer_norm, or the concentration of 01-log-gamma; may "
        "be given several times",
    )
    add("--dropout", type=float, help="of stages 11 and 12 (0.1)")
    add("--likelihood-weight", type=float, help="1 posterior, 0 prior (1)")
    add("--new-tokens", type=int, default=0, help="characters that Stan writes per draw (0)")


def _add_method_options(group):
    add = group.add_argument
    add("--chains", type=int, help="chains of nuts and hmc (4), or of each level of smc (32)")
    add(
        "--superchains",
        type=int,
        metavar="S",
        help="chains from only S starting points, for nested R-hat (one for each chain)",
    )
    add("--warmup", type=int, help="warm-up iterations (100; 300 with Stan's metrics)")
    add(
        "--draws",
        type=int,
        help="per chain (500; hmc 1000), per path (250) or from the prior (1000)",
    )
    add("--thin", type=int, metavar="K", help="keep one in K of the draws of each chain (1; hmc 2)")
    add("--init", choices=fit.INITS, help="where chains start (random)")
    add(
        "--metric",
        choices=(*fit.METRICS, "particles"),
        help="of NUTS: the prior's variances, which need no adaptation, or one of Stan's; of smc: "
        "these or those of the particles (prior)",
    )
    add(
        "--adapt-delta",
        type=float,
        help="target acceptance (0.6, or 0.8 with Stan's metrics; hmc 0.7)",
    )
    add(
        "--trajectory-length",
        type=float,
        metavar="LENGTH",
        help="hmc: length of trajectories, in prior sd (1.5, a quarter of a period)",
    )
    add("--max-treedepth", type=int, help="NUTS (7; 10 with Stan's metrics), smc (10)")
    add(
        "--kernels",
        choices=fit.KERNELS,
        help="what computes the likelihood: plain Stan, or C++ where it can be compiled (auto)",
    )
    add("--replicates", type=int, help="smc: independent runs, for errors (4)")
    add("--moves", type=int, help="smc: draws of each chain of a level (8)")
    add(
        "--only", metavar="UNIT", help="run chain-3, path-3 or start-3 only, beside other processes"
    )
    add("--paths", type=int, help="Pathfinder paths (4)")
    add("--starts", type=int, help="starts of the optimiser (4)")
