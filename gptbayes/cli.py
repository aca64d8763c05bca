"""The gptbayes command: a thin layer over the library.

Exit status: 0 done, 1 failed, 2 bad input. Bad input is answered in one line.
"""

from __future__ import annotations

import argparse
import logging
import sys
import textwrap
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.progress import TimeRemainingColumn as TimeRemaining
from rich.table import Table
from rich.text import Text

# ArviZ 0.2x announces its 1.0 once a day to every program that imports it.
warnings.filterwarnings("ignore", r"\s*ArviZ is undergoing a major refactor", FutureWarning)

import gptbayes  # noqa: E402
from gptbayes import (  # noqa: E402
    compare,
    corpus,
    fit,
    inference,
    report,
    stages,
    standata,
    toolchain,
)
from gptbayes.diagnostics import diagnose  # noqa: E402

METHODS = ("nuts", "pathfinder", "optimize", "prior")

_OUT = Console(highlight=False)
_ERR = Console(stderr=True, highlight=False)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments; those of the process by default.

    Returns
    -------
    int
        Exit status.
    """
    arguments = _parser().parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("gptbayes").setLevel(logging.INFO)
    try:
        arguments.act(arguments)
    except ValueError as error:
        return _fail(error, 2)
    except (RuntimeError, OSError) as error:
        return _fail(error, 1)
    except KeyboardInterrupt:
        return _fail(
            "interrupted; what was finished is kept, the same command goes on from there", 1
        )
    return 0


def _fail(error, status):
    text = " ".join(str(error).split()) or type(error).__name__
    _ERR.print(f"gptbayes: {text}", soft_wrap=True, markup=False)
    return status


def _setup(arguments):
    toolchain.ensure_cmdstan()
    for name, value in toolchain.describe()._asdict().items():
        if value:
            _OUT.print(f"{name:<9} {value}", markup=False, soft_wrap=True)
    _OUT.print(f"{'kernels':<9} {_kernels()}", markup=False, soft_wrap=True)
    if arguments.check:
        check = toolchain.check()
        _OUT.print(
            f"check     a normal distribution, compiled and sampled in {check.seconds:.1f} s: mean "
            f"{check.mean:.3f} (exactly 0), sd {check.sd:.3f} (exactly 1)",
            soft_wrap=True,
        )


def _kernels():
    try:
        toolchain.build_kernels(stages.stan_folder() / "kernels")
    except toolchain.ToolchainError as error:
        return f"none, fits use plain Stan: {error}"
    flags = " ".join(toolchain.machine_flags())
    if flags:
        return f"compiled with {flags}; GPTBAYES_NATIVE=0 for code that runs on any machine"
    return "compiled for any machine of this kind"


def _stages(_arguments):
    table = Table("stage", "title", "parameters", box=None, padding=(0, 2, 0, 0))
    for stage in stages.STAGES.values():
        table.add_row(*_row(stage))
    table.add_section()
    table.add_row("variants", end_section=True)
    for stage in stages.VARIANTS.values():
        table.add_row(*_row(stage))
    _OUT.print(table)


def _row(stage):
    return stage.number, stage.title, ", ".join(parameter.name for parameter in stage.parameters)


def _fit(arguments):
    problem = _problem(arguments)
    options = {
        "nuts": {
            "chains": arguments.chains,
            "superchains": arguments.superchains,
            "iter_warmup": arguments.warmup,
            "iter_sampling": arguments.draws or 500,
            "init": arguments.init,
            "metric": arguments.metric,
            "adapt_delta": arguments.adapt_delta,
            "max_treedepth": arguments.max_treedepth,
        },
        "pathfinder": {"paths": arguments.paths, "draws": arguments.draws or 250},
        "optimize": {"starts": arguments.starts},
        "prior": {"draws": arguments.draws or 1000},
    }[arguments.method]
    out = arguments.out or Path("runs") / f"{problem.stage.number}-{arguments.method}"
    method = getattr(fit, arguments.method)
    if arguments.method == "prior":
        folder = fit.prior(problem, out, seed=arguments.seed, **options)
    else:
        with progress_bars() as on_progress:
            options |= {"kernels": arguments.kernels, "seed": arguments.seed}
            folder = method(problem, out, on_progress=on_progress, **options)
    idata = inference.open_run(folder)
    _print_findings(diagnose(idata).findings)
    _OUT.print(f"{folder}: done, now: gptbayes report {folder}", markup=False, soft_wrap=True)


def _compare(arguments):
    names = {"chains": "chains", "warmup": "iter_warmup", "draws": "iter_sampling", "init": "init"}
    given = {key: getattr(arguments, name) for name, key in names.items()}
    with progress_bars() as on_progress:
        compared = compare.compare_runs(
            arguments.runs,
            refits=_refits(arguments.refits),
            settings={key: value for key, value in given.items() if value is not None},
            with_wbic=arguments.wbic,
            on_plan=_print_plans,
            on_progress=on_progress,
        )
    for title, columns in _COMPARISONS:
        _print_comparison(compared.table, title, columns)
    _print_findings(compared.findings)
    if arguments.out:
        compared.table.to_dataframe().to_csv(arguments.out)
        _OUT.print(str(arguments.out), markup=False, soft_wrap=True)


def _refits(text):
    try:
        return text if text in ("all", "none") else int(text)
    except ValueError:
        raise ValueError(f"--refits must be all, none or a number, got {text!r}") from None


def _print_plans(plans):
    for plan in plans:
        left = len(plan.sequences) - plan.n_finished
        words = (
            f"{plan.name}: Pareto k above 0.7 for {plan.n_bad} of {plan.n_sequences} sequences, "
            f"{len(plan.sequences)} to refit, {plan.n_finished} of these done"
        )
        if left:
            time = "unknown time" if plan.seconds != plan.seconds else _duration(plan.seconds)
            words += f"; {left} left, about {time} and {plan.n_bytes / 1e6:.0f} MB"
        _ERR.print(words, markup=False, soft_wrap=True)


def _duration(seconds):
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


_COMPARISONS = (
    (
        "Leave one sequence out, nats ± standard error; weights are those of a mixture that "
        "predicts (stacking), no probabilities of models",
        {
            "stage": "stage",
            "elpd": ("elpd_loo", "se", 1),
            "difference": ("difference", "difference_se", 1),
            "p_loo": ("p_loo", 1),
            "k > 0.7": ("n_bad_k", 0),
            "refitted": ("n_refitted", 0),
            "weight": ("weight", 2),
        },
    ),
    (
        "Log predictive density, nats: training and held-out text per character; sum, its Monte "
        "Carlo error and difference to the first row for held-out text",
        {
            "method": "method",
            "training": ("training_per_character", 3),
            "held out": ("held_out_per_character", 3),
            "sum": ("held_out_elpd", "held_out_se", 1),
            "MC error": ("held_out_mcse", 1),
            "difference": ("held_out_difference", "held_out_difference_se", 1),
        },
    ),
    (
        "Per-token terms, conditional: each is log p(character | its context and all OTHER "
        "characters of the text), their sum and means, nats; characters are no exchangeable "
        "units, hence no standard error",
        {
            "sum": ("token_elpd", 1),
            "first position": ("token_first", 3),
            "last position": ("token_last", 3),
            "k > 0.7": ("token_n_bad_k", 0),
        },
    ),
    (
        "WBIC in nats, small is good, and learning coefficient, ± Monte Carlo error",
        {
            "WBIC": ("wbic", "wbic_mcse", 1),
            "R-hat": ("wbic_r_hat", 3),
            "ESS": ("wbic_ess", 0),
            "learning coefficient": ("learning_coefficient", "learning_coefficient_mcse", 1),
            "if regular": ("learning_coefficient_bound", 1),
            "parameters": ("n_parameters", 0),
            "null dimension": ("null_dimension", 0),
        },
    ),
)


def _print_comparison(dataset, title, columns):
    """One table; rows that have none of its numbers are left out."""
    first = next(spec[0] for spec in columns.values() if not isinstance(spec, str))
    if first not in dataset:
        return
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("fit", overflow="fold")  # a name that is cut short names nothing
    for column in columns:
        table.add_column(column, no_wrap=True)
    for name in dataset["fit"].values[dataset[first].notnull().values]:
        row = dataset.sel(fit=name)
        table.add_row(str(name), *(_cell(row, spec) for spec in columns.values()))
    _OUT.print(Text(title, "bold"), table, "", sep="\n")


def _cell(row, spec):
    if isinstance(spec, str):
        return str(row[spec].item())
    *names, digits = spec
    values = [f"{float(row[name]):.{digits}f}" for name in names]
    return "" if values[0] == "nan" else " ± ".join(each for each in values if each != "nan")


def _print_findings(findings):
    for finding in findings:
        mark = Text("fine    ", "green") if finding.ok else Text("warning ", "yellow")
        _OUT.print(mark + finding.text, soft_wrap=True)


def _report(arguments):
    path = report.write_report(arguments.run, arguments.beside)
    _OUT.print(str(path), markup=False, soft_wrap=True)


def _problem(arguments):
    stage = stages.stage(arguments.stage)
    if arguments.text is None:
        text, source = corpus.zen_of_python(), "the Zen of Python"
    else:
        text, source = corpus.read_text(arguments.text), Path(arguments.text).name
    if arguments.lower:
        text, source = text.lower(), f"{source}, lower case"
    if arguments.characters is not None:
        text = corpus.keep_frequent(text, arguments.characters)
        source = f"{source}, its {arguments.characters} most frequent characters"
    return standata.pose(
        stage,
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


@contextmanager
def progress_bars() -> Iterator[Callable[[list[fit.Progress]], None]]:
    """Progress bars on the terminal, one for each chain or path.

    Yields
    ------
    callable
        For ``on_progress`` of `gptbayes.fit.nuts`, `pathfinder` and `optimize`.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), TimeRemaining(), console=_ERR) as bars:
        tasks = {}

        def on_progress(units):
            for unit in units:
                if unit.label not in tasks:
                    tasks[unit.label] = bars.add_task(unit.label, total=unit.total, start=False)
                if unit.begun:
                    bars.start_task(tasks[unit.label])
                bars.update(tasks[unit.label], completed=unit.done)

        yield on_progress


def _parser():
    parser = _command(
        argparse.ArgumentParser,
        None,
        prog="gptbayes",
        description="Bayesian analysis of small GPTs: fit them with NUTS or Pathfinder and report.",
        epilog="""
            gptbayes fit --stage 05 --method nuts --out runs/05
            gptbayes report runs/05
        """,
    )
    parser.add_argument("--version", action="version", version=gptbayes.__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_setup(commands)
    _add_stages(commands)
    _add_fit(commands)
    _add_compare(commands)
    _add_report(commands)
    return parser


def _add_setup(commands):
    command = _command(
        commands.add_parser,
        _setup,
        "setup",
        help="find, download or build CmdStan",
        description="Make sure that there is a CmdStan, and say which. Compile the C++ kernels of "
        "the likelihood, for all instructions of this machine unless GPTBAYES_NATIVE is 0.",
        epilog="gptbayes setup --check",
    )
    command.add_argument("--check", action="store_true", help="compile and sample a small model")


def _add_stages(commands):
    _command(
        commands.add_parser,
        _stages,
        "stages",
        help="list the stages of the ladder",
        description="The twelve stages and the variants beside them, with their parameters.",
        epilog="gptbayes stages",
    )


def _add_fit(commands):
    command = _command(
        commands.add_parser,
        _fit,
        "fit",
        help="fit a stage to a text",
        description="Fit a stage to a text. A fit that was interrupted goes on where it was.",
        epilog="""
            gptbayes fit --stage 05 --method nuts --out runs/05
            gptbayes fit --stage 03 --text hamlet.txt --lower --batch-size 64 --method pathfinder
            gptbayes fit --stage 04 --n-embed 4 --prior attention=0.3 --init random
            gptbayes fit --stage 04 --chains 32 --superchains 8 --init optimize --draws 100
            gptbayes fit --stage 12 --method prior --prior lm_head=2 --out runs/12-prior
        """,
    )
    add = command.add_argument
    add("--stage", required=True, help="01 to 12 or 01-log-gamma, see: gptbayes stages")
    add("--method", choices=METHODS, default="nuts")
    add("--out", type=Path, help="run directory (runs/STAGE-METHOD)")
    add("--seed", type=int, default=1, help="default 1")
    _add_text_options(command.add_argument_group("text"))
    _add_model_options(command.add_argument_group("model"))
    _add_method_options(command.add_argument_group("method"))


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
    add("--chains", type=int, default=4, help="NUTS chains (4)")
    add(
        "--superchains",
        type=int,
        metavar="S",
        help="NUTS chains from only S starting points, for nested R-hat (one for each chain)",
    )
    add("--warmup", type=int, default=500, help="NUTS warm-up iterations (500)")
    add("--draws", type=int, help="per chain (500), per path (250) or from the prior (1000)")
    add("--init", choices=fit.INITS, default="pathfinder", help="where NUTS starts (pathfinder)")
    add("--metric", choices=fit.METRICS, default="diag_e", help="NUTS metric (diag_e)")
    add("--adapt-delta", type=float, default=0.8, help="NUTS target acceptance (0.8)")
    add("--max-treedepth", type=int, default=10, help="NUTS (10)")
    add(
        "--kernels",
        choices=fit.KERNELS,
        default="auto",
        help="what computes the likelihood: plain Stan, or C++ where it can be compiled (auto)",
    )
    add("--paths", type=int, default=4, help="Pathfinder paths (4)")
    add("--starts", type=int, default=4, help="starts of the optimiser (4)")


def _add_compare(commands):
    command = _command(
        commands.add_parser,
        _compare,
        "compare",
        help="compare fits of the same text",
        description="Compare NUTS fits of the same text by leave-one-sequence-out, with exact "
        "refits where importance sampling fails, and by held-out text; fits by Pathfinder and "
        "modes by held-out text alone. Refits are kept in RUN/refits, the tempered fit of WBIC "
        "in RUN/wbic: what was interrupted goes on where it was.",
        epilog="""
            gptbayes compare runs/01-nuts runs/05-nuts
            gptbayes compare runs/05-nuts runs/05-pathfinder runs/05-optimize --refits none
            gptbayes compare runs/04-nuts runs/05-nuts --refits 5 --wbic --out stages.csv
        """,
    )
    add = command.add_argument
    add("runs", type=Path, nargs="*", metavar="RUN", help="run directories, at least one of NUTS")
    add("--refits", default="all", metavar="all|none|N", help="of each run, worst first (all)")
    add("--wbic", action="store_true", help="fit the tempered posterior of each NUTS run too")
    add("--out", type=Path, metavar="FILE.csv", help="write the numbers, one row per run")
    group = command.add_argument_group("refits and tempered fits", "(default: as the run)")
    group.add_argument("--chains", type=int)
    group.add_argument("--warmup", type=int)
    group.add_argument("--draws", type=int, help="per chain")
    group.add_argument("--init", choices=fit.INITS)


def _add_report(commands):
    command = _command(
        commands.add_parser,
        _report,
        "report",
        help="write the report of a fit",
        description="Write one self-contained HTML page about a fit into its run directory.",
        epilog="""
            gptbayes report runs/05-nuts
            gptbayes report runs/05-nuts runs/05-pathfinder runs/05-optimize
        """,
    )
    command.add_argument("run", type=Path, metavar="RUN", help="the fit that the page is about")
    help_text = "other fits of the same text, to compare its predictions with"
    command.add_argument("beside", type=Path, nargs="*", metavar="RUN", help=help_text)


def _command(make, act, *args, epilog, **kwargs):
    """A parser whose help ends with examples, and the function that it leads to."""
    examples = textwrap.indent(textwrap.dedent(epilog).strip(), "  ")
    parser = make(
        *args,
        epilog=f"examples:\n{examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        **kwargs,
    )
    parser.set_defaults(act=act)
    return parser


if __name__ == "__main__":
    sys.exit(main())
