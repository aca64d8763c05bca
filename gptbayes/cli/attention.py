"""`gptbayes attention`."""

from __future__ import annotations

import json
from pathlib import Path

from gptbayes import attention, plots, predict
from gptbayes.cli.terminal import (
    OUT,
    check_targets,
    columns,
    describe,
    print_findings,
    print_lines,
    print_path,
    print_table,
    print_warnings,
    status,
    write_table,
)
from gptbayes.corpus import visible
from gptbayes.findings import EFFECTIVE_DRAWS_LIMIT, probability_words
from gptbayes.report import Analysis
from gptbayes.report.analysis import N_CONTEXTS
from gptbayes.report.format import (
    ablation_cells,
    effective_positions,
    interval,
    named_heads,
)


def add_arguments(parser) -> None:
    add = describe(
        parser,
        _attention,
        description="The posterior of attention weights at a context, with heads matched across "
        "draws; detection patterns of each head, compared with the prior; and "
        "the cost of ablating heads and positions.",
        examples="""
            gptbayes attention runs/05-nuts
            gptbayes attention runs/05-nuts --context "better t" --figure attention.png
            gptbayes attention runs/05-nuts --no-ablation --out weights.csv
            gptbayes attention runs/05-nuts --no-ablation --views bertviz.json
        """,
    )
    add("run", type=Path, metavar="RUN", help="a fit of stage 04 to 12")
    help_text = "the context; its last characters are read (the beginning of held-out text)"
    add("--context", metavar="TEXT", help=help_text)
    help_text = "held-out sequences over which patterns and ablations are averaged (50)"
    add("--contexts", type=int, metavar="N", help=help_text)
    add("--prob", type=float, default=0.9, help="mass of the intervals (0.9)")
    add("--no-ablation", action="store_true", help="omit ablations of heads and positions")
    add("--figure", type=Path, metavar="FILE.png", help="draw the weights at the context")
    add("--out", type=Path, metavar="FILE.csv", help="write the weights at the context")
    help_text = "write mean, interval and single draws in the format of BertViz and CircuitsVis"
    add("--views", type=Path, metavar="FILE.json", help=help_text)


def _attention(arguments):
    n_contexts = arguments.contexts
    if n_contexts is not None and n_contexts < 1:
        raise ValueError(f"--contexts must be at least 1, got {n_contexts}")
    check_targets(arguments.figure, arguments.out, arguments.views)
    if arguments.figure and arguments.figure.suffix[1:].lower() not in plots.figure_formats():
        raise ValueError(
            f"--figure must end in one of {', '.join(plots.figure_formats())}, "
            f"got {arguments.figure}"
        )
    with status("reading") as show:
        analysis = Analysis.of_run(
            arguments.run,
            prob=arguments.prob,
            n_contexts=N_CONTEXTS if n_contexts is None else n_contexts,
            on_step=show,
        )
        n_there = len(analysis.problem.held_out.x)
        if n_contexts is not None and n_contexts > n_there:
            raise ValueError(
                f"--contexts must be at most {n_there}, the number of held-out sequences, got "
                f"{n_contexts}"
            )
        context = _context(analysis.problem, arguments.context)
        summary = analysis.attention_weights(context)
        if arguments.views:
            views = attention.attention_views(
                analysis.idata, context, matching=analysis.matching, summary=summary
            )
        findings = [*analysis.matching_findings, analysis.attention_finding(context)]
        rollout = analysis.rollout(context)
        findings.append(analysis.roles_finding)
        if not arguments.no_ablation:
            ablations = analysis.head_ablation, analysis.position_ablation
    summary = summary.isel(sequence=0)
    if arguments.figure:
        _draw(summary, arguments.figure)
    if arguments.out:
        write_table(summary.to_dataframe(), arguments.out)
    if arguments.views:
        arguments.views.write_text(json.dumps(views), encoding="utf-8")
    print_findings(finding for finding in findings if finding is not None)
    _print_weights(summary, None if rollout is None else rollout.isel(sequence=0))
    if analysis.roles is not None:
        _print_roles(analysis.roles)
    if not arguments.no_ablation:
        _print_ablations(*ablations)
    print_warnings(analysis.findings)
    for path in (arguments.figure, arguments.out, arguments.views):
        if path:
            print_path(path)


def _context(problem, text):
    if text is None:
        return problem.held_out.x[:1]
    tokens = predict.encode_prompt(problem.vocabulary, text)
    return tokens[None, -problem.design.block_size :]


def _print_weights(summary, rollout):
    text = str(summary["text"].values)
    last = summary.isel(query_position=-1)
    title = (
        f"Attention of the last position of “{visible(text)}”, mean and "
        f"{100 * summary.attrs['prob']:.0f} % interval; * above uniform with probability "
        f"above 0.95, by at least {EFFECTIVE_DRAWS_LIMIT} effective draws"
    )
    heads = list(named_heads(summary.sizes))
    all_layers = [] if rollout is None else ["all layers (rollout)", "its prior"]
    table = columns("key position", *(name for _, _, name in heads), *all_layers)
    for k, character in enumerate(text):
        one = last.isel(key_position=k)
        cells = []
        for layer, head, _ in heads:
            cell = one.isel(layer=layer, head=head)
            likely = cell["above_uniform"] > 0.95 and cell["ess_bulk"] >= EFFECTIVE_DRAWS_LIMIT
            cells.append(interval(cell, sign="") + (" *" if likely else ""))
        if rollout is not None:
            flow = rollout.isel(query_position=-1, key_position=k)
            cells += [interval(flow.sel(source=s), sign="") for s in ("posterior", "prior")]
        table.add_row(f"{k + 1} {visible(character)}", *cells)
    cells = [effective_positions(last.isel(layer=layer, head=head)) for layer, head, _ in heads]
    table.add_row("effective number of positions", *cells, style="dim")
    OUT.print()
    print_table(title, table)


def _print_roles(roles):
    """The head with most of each pattern, which needs no matching, and what was learned."""
    table = columns("attends to", "posterior", "prior", "P(posterior > prior)", "head")
    first = roles.ranks.isel(rank=0)
    for role in roles.ranks["role"].values:
        one, heads = first.sel(role=role), roles.heads.sel(role=role, source="posterior")
        table.add_row(
            str(role),
            interval(one.sel(source="posterior")),
            interval(one.sel(source="prior")),
            probability_words(one["exceeds_prior"], one["exceeds_prior_mcse"]),
            _most_probable(heads),
        )
    title = "Detection patterns: attention beyond uniform, largest head of each draw"
    print_table(title, table)
    if roles.absent:
        OUT.print(f"not in these contexts: {', '.join(roles.absent)}", "", sep="\n")
    title = "Roles of matched heads that differ from the prior"
    print_lines(title, attention.learned_sentences(roles))


def _most_probable(heads):
    layer, head, name = max(
        named_heads(heads.sizes),
        key=lambda each: float(heads["probability"].isel(layer=each[0], head=each[1])),
    )
    one = heads.isel(layer=layer, head=head)
    p = probability_words(one["probability"], one["probability_mcse"])
    return f"{name}, with probability {p}"


def _print_ablations(heads, positions):
    table = columns("ablated", "posterior", "prior", "P(cost > 0)")
    for layer, head, name in named_heads(heads.average.sizes):
        table.add_row(name, *ablation_cells(heads.average.isel(layer=layer, head=head)))
    print_table("Cost of ablating a head, nats per character", table)
    if positions is None:
        return
    table = columns("ablated", "posterior", "prior", "P(cost > 0)")
    for k in reversed(range(positions.average.sizes["position"])):
        one = positions.average.isel(position=k)
        table.add_row(f"{int(one['distance'])} before the last", *ablation_cells(one))
    n = positions.contexts.sizes["sequence"]
    title = f"Cost of ablating a position, nats for the next character, average over {n} contexts"
    print_table(title, table)
    for measure in positions.agreement["measure"].values:
        one = positions.agreement.sel(measure=measure)
        ours, theirs = (interval(one.sel(source=source)) for source in ("posterior", "prior"))
        OUT.print(
            f"rank correlation of attention ({measure}) with the effect of ablation: {ours}; "
            f"prior {theirs}",
            soft_wrap=True,
        )
    OUT.print()


def _draw(summary, path):
    panels = list(named_heads(summary.sizes))
    n_columns = min(summary.sizes["head"], 4)
    fig, axes = plots.figure(len(panels), width=4.2 * n_columns, height=4.0, columns=n_columns)
    for ax, (layer, head, name) in zip(axes, panels, strict=True):
        one = summary.isel(layer=layer, head=head)
        plots.plot_attention(one, text=str(summary["text"].values), ax=ax)
        ax.set_title(name)
    fig.savefig(path, dpi=150)
    plots.close(fig)
