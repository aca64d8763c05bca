"""`gptbayes symmetry`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import xarray as xr
from rich.text import Text

from gptbayes.cli.terminal import (
    ERR,
    OUT,
    check_targets,
    columns,
    describe,
    print_lines,
    print_path,
    print_table,
    status,
    write_table,
)
from gptbayes.diagnostics.examination import FILE
from gptbayes.diagnostics.mode_connectivity import connection_sentences
from gptbayes.diagnostics.mode_masses import same_posterior
from gptbayes.diagnostics.verdict import Verdict
from gptbayes.findings import plus_minus
from gptbayes.fit import read_config
from gptbayes.inference import MARKOV_CHAINS, open_run
from gptbayes.report import Analysis

_COLUMNS = {
    "n": ("n", 0),
    "R-hat median": ("r_hat_median", 3),
    "max": ("r_hat_max", 3),
    "nested": ("rhat_nested_max", 3),
    "R*": ("r_star", 2),
    "ESS bulk": ("ess_bulk_min", 0),
    "tail": ("ess_tail_min", 0),
}


def add_arguments(parser) -> None:
    add = describe(
        parser,
        _symmetry,
        description="Distinguish symmetries of the weights, which change no prediction, from "
        "disagreement of the chains of a fit: modes, whether their predictions differ, and "
        "whether paths without a barrier connect them; and how much was learned about each kind of "
        "weight. The last two are saved in the run directory for its report.",
        examples="""
            gptbayes symmetry runs/05-nuts
            gptbayes symmetry runs/05-nuts --no-paths --no-contraction --out mixing.csv
        """,
    )
    add("run", type=Path, metavar="RUN", help="a fit of several chains, or an SMC fit")
    add(
        "--smc",
        type=Path,
        metavar="RUN",
        help="an SMC fit of the same posterior, for masses of modes (one in a folder beside RUN)",
    )
    add("--no-paths", action="store_true", help="omit paths between chains")
    add("--no-contraction", action="store_true", help="omit the comparison of posterior and prior")
    add("--out", type=Path, metavar="FILE.csv", help="write the table of mixing")


def _symmetry(arguments):
    check_targets(arguments.out)
    with status("reading") as show:
        analysis = Analysis.of_run(arguments.run, on_step=show, smc=_smc(arguments))
        check_targets(arguments.run / FILE)
        verdict, modes = analysis.verdict, analysis.modes
        connectivity = None if arguments.no_paths else analysis.connectivity
        learned = None if arguments.no_contraction else analysis.contraction.sentences
        analysis.save(arguments.run)
        redundant = analysis.n_redundant
    if arguments.out:
        write_table(verdict.evidence.to_dataframe(), arguments.out)
    _print_symmetries(analysis.symmetries, redundant, analysis.n_parameters)
    print_mixing(verdict.evidence)
    print_verdict(verdict)
    _print_modes(modes)
    _print_stacking(analysis.stacking)
    _print_masses(analysis)
    if connectivity is not None:
        print_lines("Paths between chains", connection_sentences(connectivity))
    if learned is not None:
        print_lines("Learned from the text", learned)
    if arguments.out:
        print_path(arguments.out)


def _smc(arguments):
    """The fit by smc that was named, or one of the same posterior in a neighbouring folder."""
    if arguments.smc:
        return open_run(arguments.smc)
    idata = open_run(arguments.run)
    if idata.attrs["method"] not in MARKOV_CHAINS:
        return None
    for folder in sorted(arguments.run.resolve().parent.iterdir()):
        if not (folder / "posterior.nc").exists():
            continue
        try:
            other = open_run(folder) if read_config(folder)["method"] == "smc" else None
        except ValueError:  # damaged, or no run: it was not asked for
            continue
        if other is not None and same_posterior(idata, other):
            ERR.print(f"masses of modes from {folder}", soft_wrap=True)
            return other
    return None


def _print_masses(analysis):
    if analysis.masses is None:
        return
    lines = [finding.text for finding in analysis.masses.findings]
    mixtures = analysis.weighted_by_mass
    if mixtures is not None:
        each = (
            f"{name} {plus_minus(mixtures['elpd'][k], mixtures['se'][k])}"
            for k, name in enumerate(mixtures["mixture"].values)
        )
        lines.append(f"held-out elpd of the chains weighted by each: {', '.join(each)}")
    print_lines("Masses of modes, by sequential Monte Carlo", lines)


def _print_symmetries(symmetries, n_redundant, n_parameters):
    shared = [name for name, _, keeps_prior in symmetries if keeps_prior]
    other = [name for name, _, keeps_prior in symmetries if not keeps_prior]
    title = "Symmetries: transformations of the weights that change no prediction"
    if n_redundant is not None:
        share = n_redundant / n_parameters
        title += f"; {n_redundant} of {n_parameters} dimensions ({share:.0%})"
    of_both = f"of likelihood and prior: {', '.join(shared) or 'none'}"
    print_lines(title, [of_both, f"of the likelihood only: {', '.join(other) or 'none'}"])


def print_verdict(verdict: Verdict) -> None:
    """Print a verdict and what would show it wrong."""
    OUT.print(Text(f"verdict: {verdict.name}", "bold"), verdict.text, sep="\n", soft_wrap=True)
    if verdict.refutation:
        OUT.print(verdict.refutation, soft_wrap=True)
    OUT.print()


def print_mixing(evidence: xr.Dataset) -> None:
    """Print the table of mixing."""
    shown = {k: v for k, v in _COLUMNS.items() if evidence[v[0]].notnull().any()}
    table = columns("quantity", *shown)
    for column in table.columns[1:]:
        column.justify = "right"
    for name in evidence["quantity"].values:
        row = evidence.sel(quantity=name)
        cells = [_cell(float(row[key]), digits) for key, digits in shown.values()]
        table.add_row(str(name), *cells)
    title = (
        "Mixing: R* is 1 if a classifier cannot tell half chains apart, "
        f"{float(evidence['r_star_largest'].max()):.0f} if it always can; smallest ESS"
    )
    print_table(title, table)


def _cell(value, digits):
    return "" if np.isnan(value) else f"{value:.{digits}f}"


def _print_modes(modes):
    n = modes.table.sizes["mode"]
    if n == 1:
        return
    table = columns("mode", "whole chains", "log posterior", "held-out elpd", "text")
    for k in range(n):
        row = modes.table.isel(mode=k)
        table.add_row(
            str(k + 1),
            str(int(row["whole_chains"])),
            plus_minus(row["lp"], row["lp_mcse"]),
            plus_minus(row["elpd"], row["se"]),
            Text(" ".join(str(row["text"].item()).split())),
        )
    print_table("Modes, in nats", table)
    OUT.print(f"{modes.table.attrs['mass']}.", "", sep="\n", soft_wrap=True)


def _print_stacking(stacking):
    if stacking is None:
        return
    weights = ", ".join(f"{float(w):.2f}" for w in stacking.chains["weight"])
    stacked = stacking.held_out.sel(mixture="stacked")
    text = (
        f"stacking weights of the chains, for prediction only: {weights}; held-out elpd against "
        "equal weights "
        f"{plus_minus(stacked['difference'], stacked['difference_se'], sign='+')}"
    )
    n_bad = int(stacking.chains["n_bad_k"].max())
    if n_bad:
        text += (
            f"; Pareto k too large for up to {n_bad} sequences of a chain: weights are not reliable"
        )
    OUT.print(text, "", sep="\n", soft_wrap=True)
