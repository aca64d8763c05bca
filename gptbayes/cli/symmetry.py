"""`gptbayes symmetry`."""

from __future__ import annotations

from pathlib import Path

from rich.table import Table
from rich.text import Text

from gptbayes.cli.terminal import ERR, OUT, command
from gptbayes.diagnostics.examination import examine, save_examination
from gptbayes.diagnostics.mode_connectivity import connection_sentences
from gptbayes.diagnostics.mode_masses import same_posterior
from gptbayes.diagnostics.verdict import TOO_SHORT
from gptbayes.fit import read_config
from gptbayes.inference import open_run


def add_symmetry(commands) -> None:
    parser = command(
        commands.add_parser,
        _symmetry,
        "symmetry",
        help="tell weight symmetry from real disagreement of chains",
        description="What chains of a NUTS fit disagree about: where they are on the orbits of "
        "symmetries, which change no prediction, or modes, and whether those predict differently; "
        "whether a path without a barrier joins them; and what the text taught at all. The last "
        "two are kept in the run directory, for its report.",
        epilog="""
            gptbayes symmetry runs/05-nuts
            gptbayes symmetry runs/05-nuts --no-paths --no-learned --out mixing.csv
        """,
    )
    add = parser.add_argument
    add("run", type=Path, metavar="RUN", help="a fit of several chains by nuts, or by smc")
    add(
        "--smc",
        type=Path,
        metavar="RUN",
        help="a fit of the same posterior by smc, for masses of "
        "modes (one beside the run, if there is one)",
    )
    add("--no-paths", action="store_true", help="do not look for barriers between chains")
    add("--no-learned", action="store_true", help="do not compare the posterior with the prior")
    add("--seed", type=int, default=1, help="of draws that are joined, texts, classifiers (1)")
    add("--out", type=Path, metavar="FILE.csv", help="write the table of mixing")


def _symmetry(arguments):
    with ERR.status("reading") as status:
        idata = open_run(arguments.run)
        found = examine(
            idata,
            smc=_smc_beside(arguments, idata),
            paths=not arguments.no_paths,
            learned=not arguments.no_learned,
            seed=arguments.seed,
            on_step=status.update,
        )
    if found.connections is not None or found.contraction is not None:
        save_examination(found, arguments.run)
    _print_symmetries(found)
    _print_mixing(found)
    name = Text(f"verdict: {found.verdict.name}", "bold")
    OUT.print(name, found.verdict.text, sep="\n", soft_wrap=True)
    if found.verdict.name != TOO_SHORT:
        OUT.print(f"Wrong if {found.verdict.wrong_if}.", soft_wrap=True)
    OUT.print()
    _print_modes(found)
    _print_stack(found)
    _print_masses(found)
    if found.connections is not None:
        _print_sentences("Paths between chains", connection_sentences(found.connections))
    if found.contraction is not None:
        _print_sentences("What the text taught", found.contraction.sentences)
    if arguments.out:
        found.verdict.evidence.to_dataframe().to_csv(arguments.out)
        OUT.print(str(arguments.out), markup=False, soft_wrap=True)


def _smc_beside(arguments, idata):
    """The fit by smc that was named, or one of the same posterior in a neighbouring folder."""
    if arguments.smc:
        return open_run(arguments.smc)
    if idata.attrs["method"] == "smc":
        return None
    for folder in sorted(arguments.run.resolve().parent.iterdir()):
        if not (folder / "posterior.nc").exists() or read_config(folder)["method"] != "smc":
            continue
        other = open_run(folder)
        if same_posterior(idata, other):
            ERR.print(f"masses of modes from {folder}", markup=False, soft_wrap=True)
            return other
    return None


def _print_symmetries(found):
    kept = [name for name, _, keeps_prior in found.symmetries if keeps_prior]
    broken = [name for name, _, keeps_prior in found.symmetries if not keeps_prior]
    words = {"kept by the prior too": kept, "of the likelihood alone": broken}
    title = "Symmetries: transformations of the weights that change no prediction"
    if found.n_redundant >= 0:
        share = found.n_redundant / found.n_parameters
        title += f"; {found.n_redundant} of {found.n_parameters} dimensions ({share:.0%})"
    lines = [f"  {what}: {', '.join(names) or 'none'}" for what, names in words.items()]
    OUT.print(Text(title, "bold"), *lines, "", sep="\n", markup=False, soft_wrap=True)


_COLUMNS = {
    "n": ("n", 0),
    "R-hat median": ("r_hat_median", 3),
    "max": ("r_hat_max", 3),
    "nested": ("rhat_nested_max", 3),
    "R*": ("r_star", 2),
    "ESS bulk": ("ess_bulk_min", 0),
    "tail": ("ess_tail_min", 0),
}


def _print_mixing(found):
    evidence = found.verdict.evidence
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("quantity", no_wrap=True)
    shown = {k: v for k, v in _COLUMNS.items() if evidence[v[0]].notnull().any()}
    for column in shown:
        table.add_column(column, justify="right", no_wrap=True)
    for name in evidence["quantity"].values:
        row = evidence.sel(quantity=name)
        cells = [f"{float(row[key]):.{digits}f}" for key, digits in shown.values()]
        table.add_row(str(name), *cells)
    title = (
        "Mixing: R* is 1 where a classifier cannot tell half chains apart, "
        f"{float(evidence['r_star_largest'].max()):.0f} where it always can; smallest ESS"
    )
    OUT.print(Text(title, "bold"), table, "", sep="\n")


def _print_modes(found):
    modes = found.modes
    n = modes.table.sizes["mode"]
    if n == 1:
        return
    table = Table("mode", "whole chains", "log posterior", "held-out elpd", "text", box=None)
    for k in range(n):
        row = modes.table.isel(mode=k)
        table.add_row(
            str(k + 1),
            str(int(row["whole_chains"])),
            f"{float(row['lp']):.1f} ± {float(row['lp_mcse']):.1f}",
            f"{float(row['elpd']):.1f} ± {float(row['se']):.1f}",
            " ".join(str(row["text"].item()).split()),
        )
    OUT.print(Text("Modes, in nats", "bold"), table, f"{modes.table.attrs['mass']}.", "", sep="\n")


def _print_stack(found):
    if found.stack is None:
        return
    weights = ", ".join(f"{float(w):.2f}" for w in found.stack.chains["weight"])
    stacked = found.stack.held_out.sel(mixture="stacked")
    text = (
        f"stacking weights of the chains, for prediction only: {weights}; held-out elpd against "
        f"equal weights {float(stacked['difference']):+.1f} ± {float(stacked['difference_se']):.1f}"
    )
    n_bad = int(found.stack.chains["n_bad_k"].max())
    if n_bad:
        text += (
            f"; Pareto k above 0.7 for up to {n_bad} sequences of a chain: weights are not reliable"
        )
    OUT.print(text, "", sep="\n", markup=False, soft_wrap=True)


def _print_masses(found):
    if found.masses is None:
        return
    lines = [finding.text for finding in found.masses.findings]
    if found.mixtures is not None:
        mixtures = ", ".join(
            f"{name} {float(row['elpd']):.1f} ± {float(row['se']):.1f}"
            for name in found.mixtures["mixture"].values
            for row in [found.mixtures.sel(mixture=name)]
        )
        lines.append(f"held-out elpd of the chains weighted by each: {mixtures}")
    _print_sentences("Masses of modes, by sequential Monte Carlo", lines)


def _print_sentences(title, sentences):
    lines = [f"  {sentence}" for sentence in sentences]
    OUT.print(Text(title, "bold"), *lines, "", sep="\n", markup=False, soft_wrap=True)
