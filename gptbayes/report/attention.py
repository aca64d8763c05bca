"""Section "Attention"."""

from __future__ import annotations

from gptbayes import plots
from gptbayes.attention import learned_sentences
from gptbayes.corpus import visible
from gptbayes.findings import probability_words
from gptbayes.report.analysis import Analysis
from gptbayes.report.blocks import Heading, Paragraph, Points, Section, Table, findings, picture
from gptbayes.report.draws import attention_draws
from gptbayes.report.format import (
    ablation_cells,
    effective_positions,
    interval,
    named_heads,
    percent,
)


def attention_section(analysis: Analysis) -> Section:
    """Attention weights, detection patterns and ablations, posterior beside prior."""
    if analysis.has_attention:
        blocks = [
            Paragraph(_introduction(analysis)),
            *findings(*analysis.matching_findings),
            *_maps(analysis),
            *_patterns(analysis),
            *_ablations(analysis),
        ]
    else:
        number = analysis.problem.stage.number
        blocks = [Paragraph(f"Stage {number} has no attention; stages 04 to 12 have.")]
    question = "What do the heads attend to, and does it matter?"
    return Section("attention", "Attention", question, blocks)


def _introduction(analysis):
    rows = "each row sums to one"
    if analysis.problem.stage.masks:
        rows = (
            "each row sums to one before the dropout masks set some weights to zero and scale the "
            "others"
        )
    return (
        "A transformer predicts the next character from what each position passes on to the last. "
        "Attention weights give the earlier characters from which a position takes its input; "
        f"{rows}. A head is one such set of weights. The posterior does not label heads, and draws "
        "may list them in any order. Heads are therefore matched across draws by their attention "
        f"weights at {len(analysis.matching.contexts)} held-out contexts, and numbered by the mean "
        "distance of the positions to which they attend, nearest first."
    )


def _maps(analysis):
    summary = analysis.attention_weights()
    heads = list(named_heads(summary.sizes))
    panels = [(b, *each) for b in range(summary.sizes["sequence"]) for each in heads]
    columns = min(len(heads), 2)
    width = plots.TWO_COLUMNS if columns > 1 else 0.6 * plots.TWO_COLUMNS
    fig, axes = plots.figure(len(panels), width=width, height=3.8, columns=columns)
    plots.plot_attention_key(ax=axes[0])
    for ax, (b, layer, head, name) in zip(axes, panels, strict=True):
        one = summary.isel(sequence=b, layer=layer, head=head)
        plots.plot_attention(one, text=str(summary["text"][b].values), ax=ax)
        ax.set_title(name, fontsize="medium")
    still = picture(
        fig,
        name="attention-weights",
        alt=f"mean attention weights of each head at {summary.sizes['sequence']} contexts",
        caption="Attention weights at held-out contexts. Rows are query positions, columns key "
        f"positions. The nested squares are the upper end of the {percent(analysis.prob)} "
        "interval, the mean and the lower end, as shares of the cell; for up to eight positions "
        "the interval is also written in per cent. The first position can attend to itself only.",
    )
    return [
        attention_draws(analysis, still),
        *findings(analysis.attention_finding()),
        _last_row(analysis, summary.isel(sequence=0)),
        _effective_positions_table(summary),
        *_rollout(analysis.rollout()),
    ]


def _rollout(found):
    if found is None:
        return []
    found = found.isel(sequence=0)
    fig, axes = plots.figure(2, height=3.8)
    for ax, source in zip(axes, ("posterior", "prior"), strict=True):
        plots.plot_attention(found.sel(source=source), text=str(found["text"].values), ax=ax)
        ax.set_title(source, fontsize="medium")
    return [
        picture(
            fig,
            name="rollout",
            alt="attention rollout through all layers, posterior and prior",
            caption="Attention rollout through all layers (Abnar and Zuidema, 2020), posterior "
            "and prior: the mean over heads, averaged with the residual connection and multiplied "
            "layer by layer. It needs no matching of heads.",
        )
    ]


def _last_row(analysis, summary):
    """Attention of the last position of a context, beside that of the prior."""
    first = analysis.map_contexts[:1]
    prior = analysis.attention_weights(first, group="prior").isel(sequence=0)
    heads = list(named_heads(summary.sizes))
    columns = min(len(heads), 4)
    width = plots.TWO_COLUMNS if columns > 1 else plots.ONE_COLUMN
    size = {"width": width, "height": 0.25 * summary.sizes["key_position"] + 1.2}
    fig, axes = plots.figure(len(heads), columns=columns, **size)
    for ax, (layer, head, name) in zip(axes, heads, strict=True):
        at = {"layer": layer, "head": head, "query_position": -1}
        plots.plot_weights(summary.isel(at), prior=prior.isel(at), ax=ax)
        ax.set_title(name, fontsize="medium")
        ax.get_legend().remove()
    largest = max(ax.get_xlim()[1] for ax in axes)
    for ax in axes:
        ax.set_xlim(0, largest)
    return picture(
        fig,
        name="last-position",
        alt="attention weights of the last position with intervals, posterior and prior",
        caption="Attention weights of the last position of the first context, mean and interval: "
        "posterior (circles), prior (squares) and uniform attention (dotted).",
    )


def _effective_positions_table(summary):
    last = summary.isel(query_position=-1)
    rows = [
        [
            name,
            *(
                effective_positions(last.isel(layer=layer, head=head, sequence=b))
                for b in range(summary.sizes["sequence"])
            ),
        ]
        for layer, head, name in named_heads(summary.sizes)
    ]
    texts = [f"after “{visible(str(text))}”" for text in summary["text"].values]
    caption = (
        "Effective number of positions that the last position attends to, the exponential of the "
        f"entropy of its weights: mean and {percent(summary.attrs['prob'])} interval, of "
        f"{summary.sizes['query_position']} positions."
    )
    return Table(caption, ["", *texts], rows, "effective-positions")


def _patterns(analysis):
    roles = analysis.roles
    if roles is None:
        return [Paragraph("With contexts of one character a position can attend to itself only.")]
    first, rows = roles.ranks.isel(rank=0), []
    for role in roles.ranks["role"].values:
        one = first.sel(role=role)
        more = probability_words(one["exceeds_prior"], one["exceeds_prior_mcse"])
        sides = [interval(one.sel(source=source)) for source in ("posterior", "prior")]
        rows.append([str(role), *sides, more])
    n = min(len(analysis.problem.held_out.x), analysis.n_contexts)
    caption = (
        "Attention to each detection pattern minus that of uniform attention, for the head with "
        "the largest value in each draw, which needs no matching: mean and "
        f"{percent(analysis.prob)} interval over draws, averaged over {n} held-out contexts. "
        "The last column is the probability that a posterior draw exceeds a prior draw, one half "
        "if they cannot be distinguished; attention that prior draws also have was not learned "
        "from the text."
    )
    return [
        Heading("Detection patterns"),
        Table(
            caption, ["attends to", "posterior", "prior", "P(posterior > prior)"], rows, "patterns"
        ),
        *findings(analysis.roles_finding),
        _pattern_picture(roles),
        Paragraph("Roles of matched heads that differ from the prior:"),
        Points(learned_sentences(roles)),
    ]


def _pattern_picture(roles):
    n_layer = roles.heads.sizes["layer"]
    fig, axes = plots.figure(n_layer, height=0.3 * roles.heads.sizes["role"] + 1.0, columns=1)
    for layer, ax in enumerate(axes):
        plots.plot_roles(roles.heads.isel(layer=[layer]), ax=ax)
        if n_layer > 1:
            ax.set_title(f"layer {layer + 1}", loc="left", fontsize="medium")
        if layer:
            ax.get_legend().remove()
    return picture(
        fig,
        name="patterns",
        alt="for each pattern, the probability of each head to have the largest value",
        caption="Probability that a matched head is the one with the largest value: filled bars "
        "and numbers (± Monte Carlo error) for the posterior, outlined bars for the prior, whose "
        "heads were matched to those of the posterior because matching alone creates patterns.",
    )


def _ablations(analysis):
    heads, positions = analysis.head_ablation, analysis.position_ablation
    rows = [
        [name, *ablation_cells(heads.average.isel(layer=layer, head=head))]
        for layer, head, name in named_heads(heads.average.sizes)
    ]
    n = min(len(analysis.problem.held_out.x), analysis.n_contexts)
    columns = ["ablated", "posterior", "prior", "P(cost > 0)"]
    blocks = [
        Heading("Ablations"),
        Paragraph(
            "Attention weights do not show what matters: a position may be attended to and change "
            "nothing. The control is to ablate a head or a position and to measure what that costs "
            f"the prediction of the characters that follow, at {n} held-out contexts."
        ),
        Table(
            "Cost of ablating a head, nats per character: mean and "
            f"{percent(analysis.prob)} interval over draws. Below 0 the ablation is a gain.",
            columns,
            rows,
            "ablated-heads",
        ),
    ]
    if positions is None:
        return blocks
    rows = [
        [
            f"{int(positions.average['distance'][k])} before the last",
            *ablation_cells(positions.average.isel(position=k)),
        ]
        for k in reversed(range(positions.average.sizes["position"]))
    ]
    caption = (
        "Cost of ablating a position (attention knockout), nats for the character after the "
        f"context; average over {positions.contexts.sizes['sequence']} contexts."
    )
    agreement = [
        f"with attention as the {measure}, "
        f"{interval(positions.agreement.sel(measure=measure, source='posterior'))} "
        f"(prior {interval(positions.agreement.sel(measure=measure, source='prior'))})"
        for measure in positions.agreement["measure"].values
    ]
    fig, (left, right) = plots.figure(2, height=0.28 * len(rows) + 1.6)
    plots.plot_ablation(heads.average, ax=left)
    plots.plot_ablation(positions.average, ax=right)
    plots.share_legend(fig)
    return [
        *blocks,
        Table(caption, columns, rows, "ablated-positions"),
        picture(
            fig,
            name="ablations",
            alt="cost of ablating heads and positions, posterior and prior",
            caption="The costs in a figure: positive values mean that the head or position helps. "
            "Open circles cannot be distinguished from the prior.",
        ),
        Paragraph(
            "Rank correlation between the attention that the last position pays to a position and "
            f"the effect of ablating it, {percent(analysis.prob)} interval: "
            f"{'; '.join(agreement)}."
        ),
    ]
