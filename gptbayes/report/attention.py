"""Where does it look?"""

from __future__ import annotations

import arviz as az
import numpy as np

from gptbayes import attention, plots
from gptbayes.attention.roles import N_CONTEXTS
from gptbayes.findings import Finding
from gptbayes.inference import problem_of
from gptbayes.report.blocks import Findings, Heading, Paragraph, Points, Section, Table, picture
from gptbayes.report.format import (
    costs,
    evenly_spaced,
    interval,
    mixing,
    named_heads,
    percent,
    with_error,
)

N_MAPS = 2
"""Contexts whose attention weights are drawn."""


def looks(idata: az.InferenceData) -> Section:
    """Where does it look?"""
    problem = problem_of(idata)
    if "attention" not in problem.stage.features:
        note = f"Nowhere: stage {problem.stage.number} has no attention, stages 04 to 12 have."
        return Section("looks", "Where does it look?", [Paragraph(note)])
    matching = attention.head_order(idata)
    blocks = [
        Paragraph(_what_it_is(problem, len(matching.contexts))),
        *_matching(matching),
        *_maps(idata, problem, matching),
        *_roles(idata, problem, matching),
        *_removal(idata, problem, matching),
    ]
    return Section("looks", "Where does it look?", blocks)


def _what_it_is(problem, n_contexts):
    rows = "each row sums to one"
    if problem.stage.masks:
        rows = (
            "each row sums to one before the dropout masks silence some weights and scale the rest"
        )
    return (
        "A transformer predicts the next character from what each position passes on to the last. "
        "Attention weights say from which earlier characters a position takes that; "
        f"{rows}. A head is one such set of weights. Heads have no names in the posterior, every "
        "draw may list them in another order: they were matched across draws by what they do on "
        f"the same {n_contexts} held-out contexts, and numbered by how far they look back, the "
        "nearest first."
    )


def _matching(matching):
    found = [Finding(*said) for said in attention.matching_sentences(matching)]
    return [Findings(found)] if found else []


def _maps(idata, problem, matching):
    contexts = problem.held_out.x[evenly_spaced(len(problem.held_out.x), N_MAPS)]
    summary = attention.summarise_attention(idata, contexts, matching=matching)
    heads = list(named_heads(summary.sizes))
    columns = min(len(heads), 2)
    n = len(contexts) * len(heads)
    fig, axes = plots.figure(n, width=4.4 * columns, height=4.2, columns=columns)
    panels = [(b, *each) for b in range(len(contexts)) for each in heads]
    plots.plot_attention_key(ax=axes[0])
    for ax, (b, layer, head, name) in zip(axes, panels, strict=True):
        one = summary.isel(sequence=b, layer=layer, head=head)
        plots.plot_attention(one, text=str(summary["text"][b].values), ax=ax)
        ax.set_title(name, fontsize="medium")
    return [
        picture(
            fig,
            alt=f"mean attention weights of each head at {len(contexts)} held-out contexts",
            caption="Rows are positions, columns what they look at. Nested squares are shares of "
            f"their cell: the {percent(0.9)} interval's upper end, the mean, its lower end; up to "
            "eight positions the interval also stands below in per cent. The first position can "
            "only look at itself.",
        ),
        *_mixing(summary),
        _last_row(idata, summary.isel(sequence=0), contexts[:1], matching),
        _effective(summary),
        *_rollout(idata, contexts[:1]),
    ]


def _mixing(summary):
    if np.isnan(summary["ess_bulk"]).all():  # a single draw
        return []
    return [Findings([mixing("attention weights of these maps, heads matched", summary)])]


def _rollout(idata, context):
    """Attention followed through the layers, where there are several."""
    if "layer" not in idata.posterior.sizes or idata.posterior.sizes["layer"] < 2:
        return []
    found = attention.attention_rollout(idata, context).isel(sequence=0)
    fig, axes = plots.figure(2, width=8.8, height=4.2)
    for ax, source in zip(axes, ("posterior", "prior"), strict=True):
        plots.plot_attention(found.sel(source=source), text=str(found["text"].values), ax=ax)
        ax.set_title(source, fontsize="medium")
    return [
        picture(
            fig,
            alt="attention rollout through all layers, posterior and prior",
            caption="Attention followed through all layers (rollout: the mean over heads, half of "
            "it the residual connection, multiplied layer by layer), posterior and prior. No "
            "matching of heads is needed for it.",
        )
    ]


def _last_row(idata, summary, context, matching):
    """What the last position of a context looks at, beside the prior matched to it."""
    theirs = attention.head_order(idata, group="prior", reference=matching)
    prior = attention.summarise_attention(idata, context, matching=theirs, group="prior")
    heads = list(named_heads(summary.sizes))
    columns = min(len(heads), 4)
    size = {"width": 2.6 * columns + 0.6, "height": 0.28 * summary.sizes["key_position"] + 1.2}
    fig, axes = plots.figure(len(heads), columns=columns, **size)
    for ax, (layer, head, name) in zip(axes, heads, strict=True):
        at = {"layer": layer, "head": head, "query_position": -1}
        plots.plot_weights(summary.isel(at), prior=prior.isel(sequence=0).isel(at), ax=ax)
        ax.set_title(name, fontsize="medium")
        ax.get_legend().remove()
    return picture(
        fig,
        alt="attention weights of the last position with intervals, posterior and prior",
        caption="The last row of the first map: mean and interval of each weight, circles; the "
        "prior's, squares; a uniform look, dotted.",
    )


def _effective(summary):
    last = summary.isel(query_position=-1)
    rows = []
    for layer, head, name in named_heads(summary.sizes):
        cells = []
        for b in range(summary.sizes["sequence"]):
            one = last.isel(layer=layer, head=head, sequence=b)
            ends = {end: one[f"effective_positions_{end}"] for end in ("lower", "upper")}
            cells.append(interval({"mean": one["effective_positions"], **ends}, sign=""))
        rows.append([name, *cells])
    texts = [f"after “{plots.visible(str(text))}”" for text in summary["text"].values]
    caption = (
        "Effective number of positions that the last position looks at, the exponential of the "
        f"entropy of its weights: mean and {percent(0.9)} interval, of "
        f"{summary.sizes['query_position']} it could look at."
    )
    return Table(caption, ["", *texts], rows)


def _roles(idata, problem, matching):
    roles = attention.head_roles(idata, matching)
    first, rows = roles.ranks.isel(rank=0), []
    for role in roles.ranks["role"].values:
        one = first.sel(role=role)
        more = with_error(one["exceeds_prior"], one["exceeds_prior_mcse"])
        sides = [interval(one.sel(source=source)) for source in ("posterior", "prior")]
        rows.append([str(role), *sides, more])
    said = [each for each in attention.role_sentences(roles) if each.learned]
    learned = Points([each.text for each in said] or ["nothing: the prior does as much"])
    n = min(len(problem.held_out.x), 50)
    caption = (
        "Attention to kinds of places, minus what a uniform look gives them, of the head that has "
        f"most of it in each draw, which needs no matching: mean and {percent(0.9)} interval over "
        f"draws, averaged over {n} held-out contexts. What the prior already does has not been "
        "learned: the last column is the probability that a draw of the posterior has more of it "
        "than a draw of the prior, one half if they cannot be told apart."
    )
    return [
        Heading("What do heads look at, and is it learned?"),
        Table(caption, ["looks at", "posterior", "prior", "more than prior"], rows),
        _role_picture(roles),
        Paragraph("What the text taught each head, as far as heads have names:"),
        learned,
    ]


def _role_picture(roles):
    n = roles.heads.sizes["layer"] * roles.heads.sizes["head"]
    size = {"width": 3 + 1.3 * n, "height": 0.42 * roles.heads.sizes["role"] + 1.2}
    fig, (ax,) = plots.figure(**size)
    plots.plot_roles(roles.heads, ax=ax)
    return picture(
        fig,
        alt="probability of each head to be the head of each role",
        caption="How probable it is that each matched head is the one that looks there most: "
        "filled bars and figures (± Monte Carlo error) the posterior, outlined ones the prior, "
        "whose heads were matched to the posterior's: matching makes patterns out of noise too.",
    )


def _removal(idata, problem, matching):
    x, y = (part[:N_CONTEXTS] for part in problem.held_out)
    heads = attention.ablate_heads(idata, x, y, matching=matching)
    rows = [
        [name, *costs(heads.average.isel(layer=layer, head=head))]
        for layer, head, name in named_heads(heads.average.sizes)
    ]
    columns = ["without", "posterior", "prior", "probability that it costs"]
    blocks = [
        Heading("Does it matter where it looks?"),
        Paragraph(
            "Attention is not an explanation: a position may be looked at and change nothing. The "
            "control is to take a head or a position away and to see what that costs the "
            f"prediction of the characters that did come, at {len(x)} held-out contexts."
        ),
        Table(
            "What predictions lose without a head, nats per character: mean and "
            f"{percent(0.9)} interval over draws; below 0, they gain.",
            columns,
            rows,
        ),
    ]
    if x.shape[1] < 2:
        return blocks
    n = attention.max_contexts(*x.shape)
    found = attention.ablate_positions(idata, x[:n], y[:n])
    rows = [
        [f"{int(found.average['back'][k])} back", *costs(found.average.isel(position=k))]
        for k in reversed(range(found.average.sizes["position"]))
    ]
    caption = (
        "What the character after the context loses if no position may look at one, nats; "
        f"average over {n} contexts."
    )
    agreement = [
        f"with attention taken as the {measure}, "
        f"{interval(found.agreement.sel(measure=measure, source='posterior'))} "
        f"(prior {interval(found.agreement.sel(measure=measure, source='prior'))})"
        for measure in found.agreement["measure"].values
    ]
    fig, (left, right) = plots.figure(2, width=9.4, height=0.3 * len(rows) + 1.6)
    plots.plot_ablation(heads.average, ax=left)
    plots.plot_ablation(found.average, ax=right)
    return [
        *blocks,
        Table(caption, columns, rows),
        picture(
            fig,
            alt="effect of removing heads and positions, posterior and prior",
            caption="The same in a figure: to the right, it helped. Open circles cannot be told "
            "from the prior.",
        ),
        Paragraph(
            "Rank correlation between how much the last position looks at a position and how much "
            f"its removal changes, {percent(0.9)} interval: {'; '.join(agreement)}."
        ),
    ]
