"""Where does it look?"""

from __future__ import annotations

import arviz as az
import xarray as xr

from gptbayes import plots
from gptbayes.attention import (
    attention_back,
    attention_draws,
    match_heads,
    summarise_attention,
)
from gptbayes.diagnostics import Finding
from gptbayes.inference import problem_of
from gptbayes.report.blocks import Findings, Paragraph, Section, Table, picture
from gptbayes.report.words import percent, spread
from gptbayes.summary import summarise


def looks(idata: az.InferenceData) -> Section:
    """Where does it look?"""
    problem = problem_of(idata)
    if "attention" not in problem.stage.features:
        note = f"Nowhere: stage {problem.stage.number} has no attention, stages 04 to 12 have."
        return Section("looks", "Where does it look?", [Paragraph(note)])
    contexts = problem.held_out.x[spread(len(problem.held_out.x), 8)]
    summary = summarise_attention(idata, contexts)
    rows = "each row sums to one"
    if problem.stage.masks:
        rows = (
            "each row sums to one before the dropout masks silence some weights and scale the rest"
        )
    blocks = [
        Paragraph(
            "Attention weights say from which earlier characters a position takes what it passes "
            f"on; {rows}. They are not an explanation of a prediction. Heads have no "
            "names in the posterior: each draw's heads were first matched to the others' by what "
            f"they do on the same {len(contexts)} held-out contexts."
        ),
        *_ambiguity(summary),
        _attention_picture(summary),
        *_roles(idata, contexts),
    ]
    return Section("looks", "Where does it look?", blocks)


def _ambiguity(summary):
    found = []
    for layer in range(summary.sizes["layer"]):
        if summary.sizes["head"] < 2:
            continue
        share = float(summary["ambiguous"][layer])
        which = f" in layer {layer + 1}" if summary.sizes["layer"] > 1 else ""
        sentence = f"the matching of heads{which} is ambiguous in {percent(share)} of the draws"
        if share > 0.1:
            sentence += ": heads overlap, and a mean over draws mixes them"
        found.append(Finding(share <= 0.1, sentence))
    return [Findings(found)] if found else []


def _attention_picture(summary):
    heads = [(i, j) for i in range(summary.sizes["layer"]) for j in range(summary.sizes["head"])]
    shown = range(min(2, summary.sizes["sequence"]))
    fig, axes = plots.figure(
        len(heads) * len(shown),
        width=4.1 * min(len(heads), 2),
        height=4.0,
        columns=min(len(heads), 2),
    )
    panels = [(b, layer, head) for b in shown for layer, head in heads]
    for ax, (b, layer, head) in zip(axes, panels, strict=True):
        one = summary.isel(sequence=b, layer=layer, head=head)
        plots.plot_attention(one, text=str(summary["text"][b].values), ax=ax)
        name = f"head {head + 1}" + (f", layer {layer + 1}" if summary.sizes["layer"] > 1 else "")
        ax.set_title(name, fontsize="medium")
    return picture(
        fig,
        alt="mean attention weights of each head at two held-out contexts",
        caption=f"Mean attention weights, light is more; figures are {percent(0.9)} intervals in "
        "per cent. Rows are positions, columns what they look at. The first position can only "
        "look at itself.",
    )


def _roles(idata, contexts):
    rows = []
    for group in ("posterior", "prior"):
        weights = match_heads(attention_draws(idata, contexts, group=group)).weights
        roles = {
            name: summarise(attention_back(weights, distance).mean("sequence"))
            for distance, name in enumerate(("itself", "the previous character"))
        }
        for layer in range(weights.sizes["layer"]):
            for head in range(weights.sizes["head"]):
                at = {"layer": layer, "head": head}
                cells = [_mean_interval(role.isel(at)) for role in roles.values()]
                rows.append([group, f"{layer + 1}", f"{head + 1}", *cells])
    caption = (
        "Attention of a position to itself and to the previous character, minus what a uniform "
        f"look at the context gives them, averaged over contexts and positions: mean and "
        f"{percent(0.9)} interval. What the prior already does has not been learned."
    )
    return [Table(caption, ["", "layer", "head", *roles], rows)]


def _mean_interval(one: xr.Dataset):
    mean, lower, upper = (float(one[name]) for name in ("mean", "lower", "upper"))
    return f"{mean:+.2f} ({lower:+.2f} to {upper:+.2f})"
