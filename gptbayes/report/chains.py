"""What do the chains disagree about?"""

from __future__ import annotations

import arviz as az
import xarray as xr

from gptbayes import plots
from gptbayes.diagnostics.examination import SavedExamination, examine
from gptbayes.diagnostics.mode_connectivity import connection_sentences
from gptbayes.diagnostics.sampler import Diagnosis
from gptbayes.diagnostics.verdict import TOO_SHORT
from gptbayes.findings import R_HAT_LIMIT
from gptbayes.inference import problem_of
from gptbayes.predict import held_out_log_prob
from gptbayes.report.blocks import Paragraph, Section, Table, picture
from gptbayes.report.format import percent
from gptbayes.stats.summary import summarise
from gptbayes.symmetry import symmetries

_SYMMETRIES = {
    "rotate_stream": "rotations of the stream",
    "rotate_query_key": "rotations of queries with their keys",
    "rotate_value": "rotations of values with what reads them",
    "permute_heads": "the order of the heads",
    "permute_stream": "the order of the stream's coordinates",
    "flip_stream": "the sign of the stream",
    "permute_hidden": "the order of the hidden units",
}


def disagree(
    idata: az.InferenceData, diagnosis: Diagnosis, further: SavedExamination | None = None
) -> Section:
    """What do the chains disagree about?"""
    title = "What do the chains disagree about?"
    n_chain = idata.posterior.sizes["chain"]
    if n_chain < 2:
        note = {
            "pathfinder": "Pathfinder's draws are independent, there are no chains to compare.",
            "prior": "Draws from the prior are independent, there are no chains to compare.",
            "optimize": "A mode is one point, there is nothing to disagree.",
            "nuts": "There is one chain: run several to see whether they agree.",
            "smc": "There is one replicate: run several to see whether they agree.",
        }[idata.attrs["method"]]
        return Section("disagree", title, [Paragraph(note)])
    try:
        found = examine(idata, diagnosis=diagnosis, paths=False, learned=False)
    except ValueError as error:  # chains that never move, or are too short to compare
        return Section("disagree", title, [Paragraph(f"Nothing can be said: {error}.")])
    said, table = found.verdict, found.verdict.evidence
    blocks = [
        Paragraph(_about_symmetry(problem_of(idata).stage, found)),
        Paragraph(_judgement(said)),
        _mixing_picture(found, table),
        _convergence_table(table),
        _map_picture(found),
        *_modes(found),
        _chain_table(idata),
        *_further(further),
    ]
    return Section("disagree", title, blocks)


def _mixing_picture(found, table):
    fig, (ax,) = plots.figure(height=1.1 * len(found.r_hats) + 0.8)
    plots.plot_mixing(found.r_hats, table, limit=R_HAT_LIMIT, ax=ax)
    return picture(
        fig,
        alt=f"R-hat of {', '.join(found.r_hats)}",
        caption=f"R-hat of every scalar of each kind; the line is at {R_HAT_LIMIT}. R* is how many "
        "times better than by guessing a classifier tells which half chain a draw is from: 1 if it "
        "cannot, the number of half chains if it always can.",
    )


def _map_picture(found):
    fig, (ax,) = plots.figure(height=4.2)
    label = found.verdict.groups.label if found.verdict.groups else None
    plots.plot_mode_map(found.functions, label=label, ax=ax)
    return picture(
        fig,
        alt="Segments of chains on a plane",
        caption="Segments of the chains, each joined to the next and numbered at its last: near "
        "to each other where they predict alike at contexts from held-out text. Chains that wander "
        "over the same ground are one posterior; separate islands are modes.",
    )


def _modes(found):
    modes = found.modes
    n = modes.table.sizes["mode"]
    if n < 2:
        return []
    rows = [
        [
            str(k + 1),
            str(int(row["whole_chains"])),
            f"{float(row['lp']):.1f} ± {float(row['lp_mcse']):.1f}",
            f"{float(row['elpd']):.1f} ± {float(row['se']):.1f}",
            str(row["text"].item()),
        ]
        for k, row in ((k, modes.table.isel(mode=k)) for k in range(n))
    ]
    columns = ["mode", "whole chains", "log posterior", "held-out elpd", "a text"]
    fig, (ax,) = plots.figure(height=0.28 * len(found.functions.map) + 1)
    plots.plot_dendrogram(found.functions, ax=ax)
    blocks = [
        picture(
            fig,
            alt="Which segments of chains are near to each other",
            caption="Segments of chains by what they predict, joined where they are nearest.",
        ),
        Table("The modes, in nats.", columns, rows),
        Paragraph(f"{modes.table.attrs['mass']}."),
    ]
    different = [
        [
            f"{int(row['mode']) + 1} and {int(row['other']) + 1}",
            repr(str(row["context"].item())),
            repr(str(row["character"].item())),
            f"{float(row['probability']):.3f}",
            f"{float(row['other_probability']):.3f}",
            f"{float(row['difference']):+.3f} ± {float(row['mcse']):.3f}",
        ]
        for row in (modes.differences.isel(row=i) for i in range(modes.differences.sizes["row"]))
    ]
    if different:
        columns = ["modes", "after", "probability of", "in one", "in the other", "difference"]
        caption = (
            "What they predict most differently, with its Monte Carlo error. The largest of many: "
            "less than three errors may be chance."
        )
        blocks.append(Table(caption, columns, different))
    return blocks


def _further(further):
    if further is None:
        words = (
            "gptbayes symmetry looks further: for paths without a barrier between the chains, and "
            "for what the text taught about each kind of weight. What it finds is shown here."
        )
        return [Paragraph(words)]
    blocks = []
    if further.connections is not None:
        fig, (ax,) = plots.figure(height=3.8)
        plots.plot_path(further.connections, ax=ax)
        caption = (
            "The log posterior on the way from a draw of one chain to a draw of another, after "
            "alignment. Arcs keep the spread that draws have; where they fall no further between "
            "chains than within one (dotted), nothing lies between the chains."
        )
        blocks.append(picture(fig, alt="The log posterior along paths", caption=caption))
        blocks += _sentences(connection_sentences(further.connections))
    if further.local is not None:
        fig, (ax,) = plots.figure(height=0.35 * further.local.sizes["block"] + 1.2)
        plots.plot_contraction(further.local, ax=ax)
        caption = "What the text taught about each kind of weight, in a local approximation."
        blocks.append(picture(fig, alt="Shares of weights learned", caption=caption))
    return [*blocks, *_sentences(further.learned)]


def _sentences(sentences):
    return [Paragraph(f"{each[:1].upper()}{each[1:]}.") for each in sentences]


def _judgement(said):
    wrong = "" if said.name == TOO_SHORT else f" This would be wrong if {said.wrong_if}."
    return f"{said.text}{wrong}"


def _about_symmetry(stage, found):
    known = [_SYMMETRIES[name] for name in symmetries(stage)]
    size = ""
    if found.n_redundant > 0:
        share = percent(found.n_redundant / found.n_parameters)
        size = (
            f" Of {found.n_parameters} weights' directions {found.n_redundant} ({share}) change no "
            "prediction at all."
        )
    if not known:
        return (
            f"No rotation or permutation of stage {stage.number}'s weights leaves all predictions "
            f"and the prior as they are: R-hat of its weights means what it always does.{size}"
        )
    return (
        "Rotations and permutations of the weights leave every prediction and the prior as they "
        "are, so that chains may sit at different places of the same orbit. R-hat of raw weights "
        "measures that place; a large one is no fault and a small one no proof. In aligned "
        "weights these are taken out, as far as one local alignment can: "
        f"{', '.join(known)}. Invariants, such as the singular values of what a head compares, "
        f"log probabilities and the log posterior are free of symmetries altogether.{size}"
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
                f"{int(row['ess_bulk_min'])}",
                f"{int(row['ess_tail_min'])}",
            ]
        )
    caption = "Convergence of weights and of what they predict."
    columns = ["quantity", "scalars", "median R-hat", "largest R-hat", f"above {R_HAT_LIMIT}"]
    return Table(caption, [*columns, "smallest bulk ESS", "smallest tail ESS"], rows)


def _chain_table(idata):
    lp = idata.sample_stats["lp"]
    density = held_out_log_prob(idata).sum(("held_out_sequence", "position"))
    rows = []
    for k in range(lp.sizes["chain"]):
        lp_k, density_k = (summarise(each.isel(chain=[k])) for each in (lp, density))
        rows.append([str(k + 1), *(_mean_error_sd(each) for each in (lp_k, density_k))])
    caption = (
        "Chain by chain, in nats: mean ± Monte Carlo standard error, and sd over draws. Held-out "
        "log likelihood is that of a draw, averaged over draws; it is below the predictive density."
    )
    return Table(caption, ["chain", "log posterior", "held-out log likelihood"], rows)


def _mean_error_sd(one: xr.Dataset):
    mean, error, sd = (float(one[name]) for name in ("mean", "mcse_mean", "sd"))
    return f"{mean:.1f} ± {error:.1f} (sd {sd:.1f})"
