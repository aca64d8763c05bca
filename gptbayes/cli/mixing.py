"""`gptbayes mixing`."""

from __future__ import annotations

from pathlib import Path

from rich.text import Text

from gptbayes import plots
from gptbayes.cli.symmetry import print_mixing, print_verdict
from gptbayes.cli.terminal import (
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
from gptbayes.diagnostics.mixing import diagnose_mixing, difference_sentences
from gptbayes.findings import R_HAT_LIMIT, plus_minus
from gptbayes.groups import save_groups
from gptbayes.symmetry import read_group
from gptbayes.symmetry.posterior import as_groups, posterior_of


def add_arguments(parser) -> None:
    add = describe(
        parser,
        _mixing,
        description="Distinguish symmetries of the parameters from disagreement of the chains, for "
        "the posterior of any model in a netCDF file: R-hat, ESS and R* of raw and aligned "
        "variables and of functions that no symmetry changes; modes, and how they differ. The file "
        "of the group has the tables permutation, sign_flip and orthogonal, with the axis of each "
        "variable.",
        examples="""
            gptbayes mixing posterior.nc --group mixture.toml
            gptbayes mixing posterior.nc --group factors.toml --functions y_rep --figures figures

          where mixture.toml is

            [permutation]
            mu = "component"
            sigma = "component"
            theta = "component"
        """,
    )
    add("file", type=Path, metavar="FILE.nc", help="InferenceData or DataTree of several chains")
    add("--group", type=Path, metavar="FILE", help="symmetry group, TOML or JSON (none)")
    help_text = "variables of the posterior that no symmetry changes (the log likelihood)"
    add("--functions", metavar="NAME,NAME", help=help_text)
    add("--out", type=Path, metavar="FILE.csv", help="write the table of mixing")
    add("--aligned", type=Path, metavar="FILE.nc", help="write the aligned draws")
    add("--figures", type=Path, metavar="FOLDER", help="write the figures")


def _mixing(arguments):
    check_targets(arguments.out, arguments.aligned)
    with status("reading"):
        idata = as_groups(arguments.file)
        posterior = posterior_of(idata)
        group = read_group(arguments.group) if arguments.group else None
    names = arguments.functions.split(",") if arguments.functions else None
    with status("aligning and comparing chains"):
        found = diagnose_mixing(idata, group, names)
    if arguments.out:
        write_table(found.verdict.evidence.to_dataframe(), arguments.out)
    if arguments.aligned:
        save_groups(found.aligned, arguments.aligned)
    figures = _save_figures(found, arguments.figures) if arguments.figures else []
    if group is not None:
        parts = [part.name for part in group.parts]
        note = "not checked to be a symmetry: use gptbayes.check_invariance in Python"
        print_lines("Group", [*parts, note])
    n_chain, n_draw = posterior.sizes["chain"], posterior.sizes["draw"]
    OUT.print(f"{n_chain} chains of {n_draw} draws", "", sep="\n")
    print_mixing(found.verdict.evidence)
    print_verdict(found.verdict)
    _print_modes(found)
    for path in (arguments.out, arguments.aligned, *figures):
        if path:
            print_path(path)


def _save_figures(found, folder):
    """R-hats of every kind of quantity, and the chains in the plane and as a tree."""
    folder.mkdir(parents=True, exist_ok=True)
    fig, (ax,) = plots.figure(width=8.0, height=1.0 + 0.6 * len(found.kinds))
    plots.plot_mixing(found.r_hats, found.verdict.evidence, limit=R_HAT_LIMIT, ax=ax)
    paths = [folder / "mixing.png"]
    plots.show(fig, save=paths[0])
    if found.space is not None:
        label = None if found.verdict.groups is None else found.verdict.groups.label
        fig, axes = plots.figure(2, width=10.0, height=4.0)
        plots.plot_mode_map(found.space, label=label, ax=axes[0])
        plots.plot_dendrogram(found.space, ax=axes[1])
        paths.append(folder / "chains.png")
        plots.show(fig, save=paths[1])
    return paths


def _print_modes(found):
    if found.modes is None:
        return
    has_lp = "lp" in found.modes
    more = ("log posterior",) if has_lp else ()
    table = columns("mode", "whole chains", "share of draws", *more)
    for k in range(found.modes.sizes["mode"]):
        row = found.modes.isel(mode=k)
        cells = [str(k + 1), str(int(row["whole_chains"])), f"{float(row['share_of_draws']):.2f}"]
        if has_lp:
            cells.append(plus_minus(row["lp"], row["lp_mcse"]))
        table.add_row(*cells)
    print_table("Modes", table)
    OUT.print(Text(f"{found.modes.attrs['mass']}."), "", sep="\n", soft_wrap=True)
    n = found.differences.attrs["n_compared"]
    title = f"Largest differences between modes, of {n} compared: mean ± Monte Carlo error by mode"
    print_lines(title, difference_sentences(found))
