"""`gptbayes evidence`."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import numpy as np

from gptbayes.cli.terminal import (
    OUT,
    check_targets,
    columns,
    describe,
    print_findings,
    print_lines,
    print_path,
    print_table,
    write_table,
)
from gptbayes.compare.evidence import (
    WHY_THEY_MAY_DISAGREE,
    compare_evidence_of_runs,
    model_evidence,
)
from gptbayes.compare.evidence_sensitivity import (
    refit_with_scale,
    scale_sensitivity,
    scale_sentences,
)
from gptbayes.findings import plus_minus
from gptbayes.inference import problem_of
from gptbayes.model.priors import Priors
from gptbayes.progress import progress_bars


def add_arguments(parser) -> None:
    add = describe(
        parser,
        _evidence,
        description="Log evidence of fits of the same text by sequential Monte Carlo (gptbayes fit "
        "--method smc), with standard errors over replicates, by SMC and by thermodynamic "
        "integration; Bayes factors, posterior probabilities, WBIC, learning coefficient, LOO and "
        "held-out density; and the sensitivity of the evidence to the prior scales.",
        examples="""
            gptbayes evidence runs/05-smc
            gptbayes evidence runs/01-smc runs/05-smc runs/12-smc --out evidence.csv
            gptbayes evidence runs/05-smc --refit attention=2 --refit lm_head=0.5
        """,
    )
    add("runs", type=Path, nargs="+", metavar="RUN", help="run directories of SMC fits")
    add("--no-scales", action="store_true", help="omit the sensitivity to prior scales")
    add(
        "--refit",
        action="append",
        default=[],
        metavar="FAMILY=FACTOR",
        help="fit each run again with a prior scale times FACTOR, in RUN/scales; may be given "
        "several times",
    )
    add("--out", type=Path, metavar="FILE.csv", help="write the numbers, one row per run")


def _evidence(arguments):
    check_targets(arguments.out)
    changes = [_change(each) for each in arguments.refit]
    fits, compared = compare_evidence_of_runs(arguments.runs)
    for run in fits:
        _check_families(run, [family for family, _ in changes])
    if arguments.out:
        write_table(compared.table.to_dataframe(), arguments.out)
    for title, shown in _TABLES.items():
        _print(compared.table, title, shown)
    _print_counting(compared.counting)
    if not arguments.no_scales:
        for run in fits:
            title = f"Sensitivity of the log evidence of {run.name} to its prior scales"
            print_lines(title, scale_sentences(scale_sensitivity(run.idata)))
    for run in fits if changes else ():
        lines = [_refitted(run, compared.found[run.name], *change) for change in changes]
        print_lines(f"Log evidence of {run.name} with another prior scale, refitted", lines)
    OUT.print(WHY_THEY_MAY_DISAGREE, "", sep="\n", soft_wrap=True)
    print_findings(compared.findings)
    if arguments.out:
        print_path(arguments.out)


def _change(text):
    family, _, factor = text.partition("=")
    valid = [each.name for each in fields(Priors)]
    if family not in valid:
        raise ValueError(f"--refit must name one of {', '.join(valid)}, got {family!r}")
    try:
        return family, float(factor)
    except ValueError:
        raise ValueError(f"--refit must be FAMILY=FACTOR, got {text!r}") from None


def _check_families(run, families):
    own = dict.fromkeys(p.family for p in problem_of(run.idata).stage.parameters)
    for family in families:
        if family not in own:
            raise ValueError(
                f"--refit {family} has no effect for {run.name}, which has: {', '.join(own)}"
            )


def _refitted(run, before, family, factor):
    with progress_bars() as on_progress:
        idata = refit_with_scale(run, family, factor, on_progress=on_progress)
    after = model_evidence(idata)
    change, se = after.log_evidence - before.log_evidence, np.hypot(after.se, before.se)
    return (
        f"{factor:g} times {family}: {plus_minus(after.log_evidence, after.se, 2)} nats, a change "
        f"of {plus_minus(change, se, 2, sign='+')}"
    )


_TABLES = {
    "Log evidence, nats ± standard error over replicates": {
        "by SMC": ("log_evidence", "se", 2),
        "by thermodynamic integration": ("thermodynamic", "thermodynamic_se", 2),
        "its discretisation error": ("thermodynamic_discretisation", 3),
        "per character": ("per_character", 3),
        "log Bayes factor": ("log_bayes_factor", "log_bayes_factor_se", 2),
        "probability": ("probability", "probability_se", 2),
    },
    "The same text otherwise, nats: WBIC approximates minus the log evidence, small is good; LOO "
    "and held-out text are predicted by the posterior": {
        "WBIC": ("wbic", "wbic_se", 1),
        "learning coefficient": ("learning_coefficient", "learning_coefficient_se", 1),
        "LOO": ("elpd_loo", "elpd_loo_se", 1),
        "large k": ("n_bad_k", 0),
        "held out": ("held_out_elpd", "held_out_se", 1),
    },
}


_OF_SEVERAL = ("log_bayes_factor", "probability")


def _print(table, title, shown):
    if table.sizes["fit"] < 2:
        shown = {name: spec for name, spec in shown.items() if spec[0] not in _OF_SEVERAL}
    printed = columns("fit", *shown)
    for name in table["fit"].values:
        row = table.sel(fit=name)
        printed.add_row(str(name), *(_cell(row, *spec) for spec in shown.values()))
    print_table(title, printed)


def _print_counting(counting):
    printed = columns("model", "log evidence")
    for name in counting["model"].values:
        printed.add_row(str(name), f"{float(counting['log_evidence'].sel(model=name)):.2f}")
    print_table("Counting characters, in closed form", printed)


def _cell(row, *spec):
    *names, digits = spec
    values = [f"{float(row[name]):.{digits}f}" for name in names if np.isfinite(row[name])]
    return " ± ".join(values)
