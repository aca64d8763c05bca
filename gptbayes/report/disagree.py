"""What do the chains disagree about?"""

from __future__ import annotations

import arviz as az
import xarray as xr

from gptbayes import plots
from gptbayes.diagnostics import Diagnosis
from gptbayes.inference import problem_of
from gptbayes.predict import held_out_log_prob
from gptbayes.report.blocks import Paragraph, Section, Table, picture
from gptbayes.report.words import percent
from gptbayes.summary import R_HAT_LIMIT, summarise
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


def disagree(idata: az.InferenceData, diagnosis: Diagnosis) -> Section:
    """What do the chains disagree about?"""
    title = "What do the chains disagree about?"
    n_chain = idata.posterior.sizes["chain"]
    if n_chain < 2:
        note = {
            "pathfinder": "Pathfinder's draws are independent, there are no chains to compare.",
            "prior": "Draws from the prior are independent, there are no chains to compare.",
            "optimize": "A mode is one point, there is nothing to disagree.",
            "nuts": "There is one chain: run several to see whether they agree.",
        }[idata.attrs["method"]]
        return Section("disagree", title, [Paragraph(note)])
    table = diagnosis.convergence
    fig, (ax,) = plots.figure(height=1.1 * len(diagnosis.r_hats) + 0.8)
    plots.plot_r_hat(diagnosis.r_hats, limit=R_HAT_LIMIT, ax=ax)
    blocks = [
        Paragraph(_about_symmetry(problem_of(idata).stage)),
        picture(
            fig,
            alt=f"R-hat of {', '.join(diagnosis.r_hats)}",
            caption=f"R-hat of every scalar of each kind; the line is at {R_HAT_LIMIT}.",
        ),
        _convergence_table(table),
        Paragraph(_verdict(table)),
        _chain_table(idata),
    ]
    return Section("disagree", title, blocks)


def _about_symmetry(stage):
    known = [_SYMMETRIES[name] for name in symmetries(stage)]
    if not known:
        return (
            f"No rotation or permutation of stage {stage.number}'s weights leaves all predictions "
            "as they are: R-hat of its weights means what it always does."
        )
    return (
        "Rotations and permutations of the weights leave every prediction and the prior as they "
        "are, so that chains may sit at different places of the same orbit. R-hat of raw weights "
        "measures that place; a large one is no fault and a small one no proof. In aligned "
        "weights these are taken out, as far as one local alignment can: "
        f"{', '.join(known)}. "
        "Only log probabilities and the log posterior are free of symmetries altogether."
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


def _verdict(table):
    def worst(name):
        return float(table.sel(quantity=name)["r_hat_max"])

    functions = max(worst("log probabilities"), worst("log posterior"))
    raw = worst("raw weights")
    limit = f"{R_HAT_LIMIT}"
    if functions <= R_HAT_LIMIT:
        if raw <= R_HAT_LIMIT:
            return f"The chains agree, in weights and in predictions: no R-hat is above {limit}."
        return (
            f"The chains agree about every prediction (largest R-hat {functions:.3f}) and differ "
            f"in weights (largest R-hat {raw:.2f}): what they disagree about is where on the orbit "
            "of the symmetries they are, or something that no training character's probability "
            "shows."
        )
    share = float(table.sel(quantity="log probabilities")["share_above"])
    return (
        f"The chains do not yet agree about every prediction: largest R-hat {functions:.3f}, and "
        f"{percent(share)} of those of log probabilities above {limit}. Slow mixing and separate "
        "modes both look like this; longer chains tell them apart. Do not read the disagreement "
        "of raw weights before this is mended."
    )


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
