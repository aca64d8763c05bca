"""`gptbayes fit`."""

from __future__ import annotations

import shlex
from pathlib import Path

from gptbayes import corpus, fit
from gptbayes.cli.terminal import OUT, describe, print_findings
from gptbayes.model.problem import make_problem
from gptbayes.model.stages import stage
from gptbayes.progress import progress_bars
from gptbayes.report.analysis import Analysis

METHODS = ("nuts", "pathfinder", "optimize", "prior", "smc")


def add_arguments(parser) -> None:
    add = describe(
        parser,
        _fit,
        description="Fit a stage to a text. An interrupted fit resumes when the same command is "
        "given again.",
        examples="""
            gptbayes fit --stage 05 --method nuts --out runs/05
            gptbayes fit --stage 03 --text hamlet.txt --lower --batch-size 64 --method pathfinder
            gptbayes fit --stage 04 --n-embed 4 --prior attention=0.3 --init random
            gptbayes fit --stage 04 --chains 32 --superchains 8 --init optimize --draws 100
            gptbayes fit --stage 05 --method smc --replicates 4 --out runs/05-smc
            gptbayes fit --stage 12 --method prior --prior lm_head=2 --out runs/12-prior
        """,
    )
    add("--stage", required=True, help="01 to 12 or 01-log-gamma, see: gptbayes stages")
    add("--method", choices=METHODS, default="nuts")
    add("--out", type=Path, help="run directory (runs/STAGE-METHOD)")
    add("--seed", type=int, default=1, help="default 1")
    _add_text_options(parser.add_argument_group("text"))
    _add_model_options(parser.add_argument_group("model"))
    _add_method_options(parser.add_argument_group("method"))


def _fit(arguments):
    problem = _problem(arguments)
    options = {
        "nuts": {
            "chains": _given(arguments.chains, 4),
            "superchains": arguments.superchains,
            "iter_warmup": arguments.warmup,
            "iter_sampling": _given(arguments.draws, 500),
            "init": arguments.init,
            "metric": arguments.metric,
            "adapt_delta": arguments.adapt_delta,
            "max_treedepth": arguments.max_treedepth,
        },
        "pathfinder": {"paths": arguments.paths, "draws": _given(arguments.draws, 250)},
        "optimize": {"starts": arguments.starts},
        "prior": {"draws": _given(arguments.draws, 1000)},
        "smc": {
            "replicates": arguments.replicates,
            "chains": _given(arguments.chains, 32),
            "moves": arguments.moves,
            "max_treedepth": arguments.max_treedepth,
        },
    }[arguments.method]
    out = arguments.out or Path("runs") / f"{problem.stage.number}-{arguments.method}"
    method = getattr(fit, arguments.method)
    if arguments.method == "prior":
        folder = fit.prior(problem, out, seed=arguments.seed, **options)
    else:
        with progress_bars() as on_progress:
            options |= {"kernels": arguments.kernels, "seed": arguments.seed}
            folder = method(problem, out, on_progress=on_progress, **options)
    print_findings(Analysis.of_run(folder).findings)
    following = f"gptbayes report {shlex.quote(str(folder))}"
    OUT.print(f"{folder}: done; next: {following}", soft_wrap=True)


def _given(value, default):
    return default if value is None else value


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
    return make_problem(
        stage(arguments.stage),
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
        likelihood_weight=arguments.likelihood_weight,
        n_new_tokens=arguments.new_tokens,
        dropout=arguments.dropout,
        mask_seed=arguments.seed,
    )


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
    add("--n-embed", type=int, default=8, help="width of the model, C (8)")
    add("--n-head", type=int, default=2, help="attention heads, H (2)")
    add("--n-layer", type=int, default=2, help="blocks, L (2)")
    add(
        "--prior",
        action="append",
        default=[],
        metavar="FAMILY=SCALE",
        help="a prior sd: token_embedding, position_embedding, attention, attention_proj, "
        "feed_forward, lm_head, offset or layer_norm, or the concentration of 01-log-gamma; may "
        "be given several times",
    )
    add("--dropout", type=float, default=0.1, help="of stages 11 and 12 (0.1)")
    add("--likelihood-weight", type=float, default=1.0, help="1 posterior, 0 prior (1)")
    add("--new-tokens", type=int, default=0, help="characters that Stan writes per draw (0)")


def _add_method_options(group):
    add = group.add_argument
    add("--chains", type=int, help="NUTS chains (4), or of each level of smc (32)")
    add(
        "--superchains",
        type=int,
        metavar="S",
        help="NUTS chains from only S starting points, for nested R-hat (one for each chain)",
    )
    add("--warmup", type=int, default=300, help="NUTS warm-up iterations (300)")
    add("--draws", type=int, help="per chain (500), per path (250) or from the prior (1000)")
    add("--init", choices=fit.INITS, default="random", help="where NUTS starts (random)")
    add(
        "--metric",
        choices=fit.METRICS,
        default="prior",
        help="of NUTS: the prior's variances, which need no adaptation, or one of Stan's (prior)",
    )
    add("--adapt-delta", type=float, default=0.8, help="NUTS target acceptance (0.8)")
    add("--max-treedepth", type=int, default=10, help="NUTS (10)")
    add(
        "--kernels",
        choices=fit.KERNELS,
        default="auto",
        help="what computes the likelihood: plain Stan, or C++ where it can be compiled (auto)",
    )
    add("--replicates", type=int, default=4, help="smc: independent runs, for errors (4)")
    add("--moves", type=int, default=8, help="smc: draws of each chain of a level (8)")
    add("--paths", type=int, default=4, help="Pathfinder paths (4)")
    add("--starts", type=int, default=4, help="starts of the optimiser (4)")
