"""Section "Chains and modes"."""

from __future__ import annotations

import xarray as xr

from gptbayes import plots
from gptbayes.diagnostics.mode_connectivity import connection_sentences
from gptbayes.diagnostics.verdict import MIXED, UP_TO_SYMMETRY
from gptbayes.findings import R_HAT_LIMIT, Finding, plus_minus
from gptbayes.report.analysis import CHAINS, Analysis
from gptbayes.report.blocks import Paragraph, Section, Table, findings, picture
from gptbayes.report.format import percent, sentence

SYMMETRY_NAMES = {
    "rotate_stream": "rotations of the residual stream",
    "rotate_query_key": "rotations of queries with their keys",
    "rotate_value": "rotations of values with what reads them",
    "permute_heads": "permutations of heads",
    "permute_stream": "permutations of coordinates of the residual stream",
    "flip_stream": "the sign of the residual stream",
    "permute_hidden": "permutations of hidden units",
}
_NOTES = {
    "pathfinder": "Pathfinder's draws are independent: there are no chains to compare.",
    "prior": "Draws from the prior are independent: there are no chains to compare.",
    "optimize": "A mode is a single point: there are no chains to compare.",
    "nuts": "There is one chain: run several to see whether they agree.",
    "hmc": "There is one chain: run several to see whether they agree.",
    "smc": "There is one replicate: run several to see whether they agree.",
}


def chains_section(analysis: Analysis) -> Section:
    """Whether the chains agree, apart from the symmetries of the weights."""
    question = "Do the chains agree, apart from symmetries of the weights?"
    return Section("chains", "Chains and modes", question, _blocks(analysis))


def _blocks(analysis):
    if analysis.n_chain < 2 or analysis.method not in CHAINS:
        return [Paragraph(_NOTES[analysis.method])]
    try:
        verdict = analysis.verdict
    except ValueError as error:  # chains that never move, or are too short to compare
        return findings(Finding(False, f"the chains cannot be compared: {error}"))
    return [
        Paragraph(_about_symmetry(analysis)),
        *findings(verdict_finding(verdict)),
        _mixing_picture(analysis.r_hats, verdict.evidence),
        _convergence_table(verdict.evidence),
        _map_picture(analysis),
        *(mode_blocks(analysis) if analysis.mode_groups is not None else ()),
        _chain_table(analysis.per_chain),
        *_connectivity(analysis),
    ]


def verdict_finding(verdict) -> Finding:
    """A verdict on mixing as a finding, with what would show it wrong."""
    ok = verdict.name in (MIXED, UP_TO_SYMMETRY)
    return Finding(ok, f"{verdict.text} {verdict.refutation}".strip().removesuffix("."))


def _about_symmetry(analysis):
    known = [
        SYMMETRY_NAMES[name]
        for name, _, keeps_prior in analysis.symmetries
        if keeps_prior and name in SYMMETRY_NAMES
    ]
    size = ""
    if analysis.n_redundant:
        share = percent(analysis.n_redundant / analysis.n_parameters)
        size = (
            f" Of the {analysis.n_parameters} dimensions of weight space, {analysis.n_redundant} "
            f"({share}) change no prediction."
        )
    if not known:
        number = analysis.problem.stage.number
        return (
            f"No rotation or permutation of the weights of stage {number} leaves all predictions "
            f"and the prior unchanged, so R-hat of its weights has its usual meaning.{size}"
        )
    return (
        "Rotations and permutations of the weights leave every prediction and the prior "
        "unchanged, so chains may be at different positions on the same orbit. R-hat of raw "
        "weights measures these positions: a large value is not a fault, and a small value is not "
        "evidence of convergence. In aligned weights the following symmetries are removed, as far "
        f"as a local alignment can: {', '.join(known)}. Invariants (such as the singular values of "
        "the product of a head's queries and keys), log probabilities and the log posterior are "
        f"not affected by symmetries at all.{size}"
    )


def _mixing_picture(r_hats, table):
    fig, (ax,) = plots.figure(height=0.8 * len(r_hats) + 0.8)
    plots.plot_mixing(r_hats, table, limit=R_HAT_LIMIT, ax=ax)
    return picture(
        fig,
        name="r-hat",
        alt=f"R-hat of {', '.join(r_hats)}",
        caption=f"R-hat of every scalar of each kind of quantity; the line is at {R_HAT_LIMIT}. R* "
        "is how many times better than chance a classifier tells which half chain a draw comes "
        "from: 1 if it cannot, the number of half chains if it always can.",
    )


def _convergence_table(table):
    rows = []
    for name in table["quantity"].values:
        row = table.sel(quantity=name)
        rows.append(
            [
                str(name),
                f"{int(row['n'])}",
                f"{float(row['r_hat_median']):.3f}",
                f"{float(row['r_hat_max']):.3f}",
                percent(float(row["share_above"])),
                f"{float(row['ess_bulk_min']):.0f}",
                f"{float(row['ess_tail_min']):.0f}",
            ]
        )
    columns = ["quantity", "scalars", "median R-hat", "largest R-hat", f"above {R_HAT_LIMIT}"]
    columns += ["smallest bulk ESS", "smallest tail ESS"]
    return Table(
        "Convergence of the weights and of what they predict.", columns, rows, "convergence"
    )


def _map_picture(analysis):
    fig, (ax,) = plots.figure(height=4.2)
    groups = analysis.verdict.groups
    label = None if groups is None else groups.label
    plots.plot_mode_map(analysis.function_space, label=label, ax=ax)
    return picture(
        fig,
        name="mode-map",
        alt="segments of chains on a plane",
        caption="Segments of the chains, each joined to the next and numbered at its last. "
        "Segments are close where their predictions at held-out contexts are similar. Chains that "
        "overlap sample the same distribution; separate clusters are modes.",
    )


def mode_blocks(analysis: Analysis) -> list:
    """The modes of the chains: a tree, a table, and where their predictions differ most."""
    modes, space = analysis.modes, analysis.function_space
    rows = [
        [
            str(k + 1),
            str(int(row["whole_chains"])),
            plus_minus(row["lp"], row["lp_mcse"]),
            plus_minus(row["elpd"], row["se"]),
            str(row["text"].item()),
        ]
        for k in range(modes.table.sizes["mode"])
        for row in [modes.table.isel(mode=k)]
    ]
    columns = ["mode", "whole chains", "log posterior", "held-out elpd", "a text"]
    fig, (ax,) = plots.figure(height=0.28 * len(space.map) + 1)
    plots.plot_dendrogram(space, ax=ax)
    blocks = [
        picture(
            fig,
            name="dendrogram",
            alt="dendrogram of segments of chains",
            caption="Dendrogram of segments of chains by their predictions.",
        ),
        Table("The modes, in nats.", columns, rows, "modes"),
        *findings(Finding(False, modes.table.attrs["mass"])),
    ]
    different = [
        [
            f"{int(row['mode']) + 1} and {int(row['other']) + 1}",
            repr(str(row["context"].item())),
            repr(str(row["character"].item())),
            f"{float(row['probability']):.3f}",
            f"{float(row['other_probability']):.3f}",
            plus_minus(row["difference"], row["mcse"], 3, sign="+"),
        ]
        for row in (modes.differences.isel(row=i) for i in range(modes.differences.sizes["row"]))
    ]
    if different:
        columns = ["modes", "after", "probability of", "in one", "in the other", "difference"]
        caption = (
            "The largest differences between the predictions of modes, with Monte Carlo standard "
            "errors. They are the largest of many: less than three errors may be chance."
        )
        blocks.append(Table(caption, columns, different, "mode-differences"))
    return blocks


def _chain_table(per_chain: dict[str, xr.Dataset]):
    n_chain = next(iter(per_chain.values())).sizes["chain"]
    rows = [
        [str(k + 1), *(_mean_error_sd(each.isel(chain=k)) for each in per_chain.values())]
        for k in range(n_chain)
    ]
    caption = (
        "Chain by chain, in nats: mean ± Monte Carlo standard error, and standard deviation over "
        "draws. The held-out log likelihood is averaged over draws; it is smaller than the "
        "log predictive density."
    )
    return Table(caption, ["chain", *per_chain], rows, "chains")


def _mean_error_sd(one):
    mean, error, sd = (float(one[name]) for name in ("mean", "mcse_mean", "sd"))
    return f"{plus_minus(mean, error)} (sd {sd:.1f})" if sd == sd else f"{mean:.1f}"


def _connectivity(analysis):
    """Mode connectivity and contraction, which take minutes, if they were saved."""
    saved, blocks = analysis.saved, []
    if saved is None:
        return [
            Paragraph(
                "The command gptbayes symmetry also looks for paths between the chains without a "
                "barrier, and compares posterior and prior for each kind of weight. Its results "
                "are shown here once it has run."
            )
        ]
    if saved.connections is not None:
        fig, (ax,) = plots.figure(height=3.8)
        plots.plot_path(saved.connections, ax=ax)
        caption = (
            "The log posterior along paths from a draw of one chain to a draw of another, after "
            "alignment. Arcs keep the spread of the draws. If they fall no further between chains "
            "than within one (dotted), no barrier separates the chains."
        )
        blocks.append(
            picture(fig, name="paths", alt="the log posterior along paths", caption=caption)
        )
        blocks += _paragraphs(connection_sentences(saved.connections))
    if saved.local is not None:
        fig, (ax,) = plots.figure(height=0.35 * saved.local.sizes["block"] + 1.2)
        plots.plot_contraction(saved.local, ax=ax)
        caption = "What the text taught about each kind of weight, in a local approximation."
        blocks.append(
            picture(fig, name="contraction", alt="shares of weights learned", caption=caption)
        )
    return [*blocks, *_paragraphs(saved.learned)]


def _paragraphs(sentences):
    return [Paragraph(sentence(each)) for each in sentences]
