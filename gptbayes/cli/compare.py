"""`gptbayes compare`."""

from __future__ import annotations

from pathlib import Path

from gptbayes import compare, fit
from gptbayes.cli.terminal import (
    ERR,
    check_targets,
    columns,
    describe,
    print_findings,
    print_path,
    print_table,
    status,
    write_table,
)
from gptbayes.fit.checks import positive
from gptbayes.progress import progress_bars
from gptbayes.report import write_comparison


def add_arguments(parser) -> None:
    add = describe(
        parser,
        _compare,
        description="Compare fits of the same text: those of NUTS and HMC by "
        "leave-one-sequence-out, with exact refits where importance sampling fails, and by "
        "held-out text; Pathfinder fits and modes by held-out text alone. Refits are saved in "
        "RUN/refits, the tempered fit of WBIC in RUN/wbic; interrupted refits resume.",
        examples="""
            gptbayes compare runs/01-nuts runs/05-nuts
            gptbayes compare runs/05-nuts runs/05-pathfinder runs/05-optimize --refits none
            gptbayes compare runs/04-nuts runs/05-nuts --refits 5 --wbic --out stages.csv
            gptbayes compare runs/*-nuts runs/05-smc --refits none --html ladder.html
        """,
    )
    add("runs", type=Path, nargs="*", metavar="RUN", help="run directories, one of NUTS or HMC")
    add(
        "--refits",
        default="all",
        metavar="all|none|N",
        help="refits of each run, largest Pareto k first (all)",
    )
    add(
        "--wbic",
        action="store_true",
        help="also fit the tempered posterior of each NUTS or HMC fit",
    )
    add("--out", type=Path, metavar="FILE.csv", help="write the numbers, one row per run")
    help_text = "write one page with a row per run: density, evidence, calibration, cost, verdict"
    add("--html", type=Path, metavar="FILE.html", help=help_text)
    group = parser.add_argument_group("refits and tempered fits", "(default: as the run)")
    group.add_argument("--chains", type=int)
    group.add_argument("--warmup", type=int)
    group.add_argument("--draws", type=int, help="per chain")
    group.add_argument("--init", choices=fit.INITS)


def _compare(arguments):
    names = {"chains": "chains", "warmup": "iter_warmup", "draws": "iter_sampling", "init": "init"}
    check_targets(arguments.out, arguments.html)
    refits = _refits(arguments.refits)
    given = {name: getattr(arguments, name) for name in names}
    given = {name: value for name, value in given.items() if value is not None}
    if given and refits in ("none", 0) and not arguments.wbic:
        raise ValueError(
            f"--{next(iter(given))} has no effect without refits and tempered fits: with "
            f"--refits {arguments.refits} it needs --wbic"
        )
    settings = {names[name]: value for name, value in given.items()}
    positive(**{name: value for name, value in settings.items() if name != "init"})
    with progress_bars() as on_progress:
        compared = compare.compare_runs(
            arguments.runs,
            refits=refits,
            settings=settings,
            with_wbic=arguments.wbic,
            on_plan=_print_plans,
            on_progress=on_progress,
        )
    if arguments.out:
        write_table(compared.table.to_dataframe(), arguments.out)
    for title, shown in _COMPARISONS:
        _print_comparison(compared.table, title, shown)
    print_findings(compared.findings)
    if arguments.html:
        with status("reading") as show:
            write_comparison(arguments.runs, arguments.html, compared=compared, on_step=show)
    for path in filter(None, (arguments.out, arguments.html)):
        print_path(path)


def _refits(text):
    try:
        return text if text in ("all", "none") else int(text)
    except ValueError:
        raise ValueError(f"--refits must be all, none or a number, got {text!r}") from None


def _print_plans(plans):
    for plan in plans:
        left = len(plan.sequences) - plan.n_finished
        words = (
            f"{plan.name}: Pareto k too large for {plan.n_bad} of {plan.n_sequences} sequences, "
            f"{len(plan.sequences)} to refit, {plan.n_finished} of these done"
        )
        if left:
            time = "unknown time" if plan.seconds != plan.seconds else _duration(plan.seconds)
            words += f"; {left} left, about {time} and {plan.n_bytes / 1e6:.0f} MB"
        ERR.print(words, soft_wrap=True)


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
            "large k": ("n_bad_k", 0),
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
            "large k": ("token_n_bad_k", 0),
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


def _print_comparison(dataset, title, shown):
    """One table; rows that have none of its numbers are left out."""
    first = next(spec[0] for spec in shown.values() if not isinstance(spec, str))
    if first not in dataset:
        return
    table = columns("fit", *shown)
    for name in dataset["fit"].values[dataset[first].notnull().values]:
        row = dataset.sel(fit=name)
        table.add_row(str(name), *(_cell(row, spec) for spec in shown.values()))
    print_table(title, table)


def _cell(row, spec):
    if isinstance(spec, str):
        return str(row[spec].item())
    *names, digits = spec
    values = [f"{float(row[name]):.{digits}f}" for name in names]
    return "" if values[0] == "nan" else " ± ".join(each for each in values if each != "nan")
