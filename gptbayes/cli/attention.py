"""`gptbayes attention`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from rich.text import Text

from gptbayes import attention, plots, predict
from gptbayes.attention.roles import N_CONTEXTS
from gptbayes.cli.terminal import ERR, OUT, columns, command, print_findings, print_table
from gptbayes.diagnostics.sampler import quick_findings
from gptbayes.findings import Finding
from gptbayes.inference import open_run, problem_of
from gptbayes.report.format import costs, headline, interval, mixing, named_heads, with_error


def add_attention(commands) -> None:
    parser = command(
        commands.add_parser,
        _attention,
        "attention",
        help="where the heads look, and what of it the text taught",
        description="The posterior of attention weights at a context, heads matched across draws "
        "by what they do; what each head looks at beyond a uniform look, prior beside posterior; "
        "and, as attention is no explanation, what predictions lose without a head or a position.",
        epilog="""
            gptbayes attention runs/05-nuts
            gptbayes attention runs/05-nuts --context "better t" --figure attention.png
            gptbayes attention runs/05-nuts --no-removal --out weights.csv
        """,
    )
    add = parser.add_argument
    add("run", type=Path, metavar="RUN", help="a fit of stage 04 to 12")
    help_text = "where to look; its last characters are read (the beginning of held-out text)"
    add("--context", metavar="TEXT", help=help_text)
    help_text = "held-out sequences over which roles and removals are averaged (50)"
    add("--contexts", type=int, default=N_CONTEXTS, metavar="N", help=help_text)
    add("--prob", type=float, default=0.9, help="mass of the intervals (0.9)")
    add("--no-removal", action="store_true", help="do not take heads and positions away")
    add("--figure", type=Path, metavar="FILE.png", help="draw the weights at the context")
    add("--out", type=Path, metavar="FILE.csv", help="write the weights at the context")


def _attention(arguments):
    idata = open_run(arguments.run)
    problem = problem_of(idata)
    if arguments.contexts < 1:
        raise ValueError(f"--contexts must be at least 1, got {arguments.contexts}")
    x, y = (part[: arguments.contexts] for part in problem.held_out)
    context = _context(problem, arguments.context)
    options = {"prob": arguments.prob}
    with ERR.status("matching heads") as status:
        matching = attention.head_order(idata)
        status.update("reading the context")
        summary = attention.summarise_attention(idata, context, matching=matching, **options)
        through = None
        if summary.sizes["layer"] > 1:
            through = attention.attention_rollout(idata, context, **options).isel(sequence=0)
        status.update(f"looking for roles at {len(x)} held-out contexts")
        roles = attention.head_roles(idata, matching, x, **options)
        removed = None
        if not arguments.no_removal:
            status.update("taking heads away")
            heads = attention.ablate_heads(idata, x, y, matching=matching, **options)
            removed = heads, None
            if x.shape[1] > 1:
                status.update("taking positions away")
                n = attention.max_contexts(*x.shape)
                found = attention.ablate_positions(idata, x[:n], y[:n], **options)
                removed = heads, found
    print_findings(Finding(*said) for said in attention.matching_sentences(matching))
    if summary["ess_bulk"].notnull().any():
        print_findings([mixing("attention weights at the context, heads matched", summary)])
    _print_weights(summary.isel(sequence=0), through)
    _print_roles(roles)
    if removed:
        _print_head_removal(removed[0])
        if removed[1]:
            _print_position_removal(removed[1])
    print_findings(f for f in headline(idata, quick_findings(idata)) if not f.ok)
    if arguments.figure:
        _draw(summary.isel(sequence=0), arguments.figure)
        OUT.print(str(arguments.figure), markup=False, soft_wrap=True)
    if arguments.out:
        summary.isel(sequence=0).to_dataframe().to_csv(arguments.out)
        OUT.print(str(arguments.out), markup=False, soft_wrap=True)


def _context(problem, text):
    if text is None:
        return problem.held_out.x[:1]
    tokens = predict.encode_prompt(problem.vocabulary, text)
    return tokens[None, -problem.design.block_size :]


def _print_weights(summary, through):
    text = str(summary["text"].values)
    last = summary.isel(query_position=-1)
    title = (
        f"Where the last position of “{plots.visible(text)}” looks, mean and "
        f"{100 * summary.attrs['prob']:.0f} % interval; * more than uniform with probability "
        "above 0.95"
    )
    heads = list(named_heads(summary.sizes))
    all_layers = [] if through is None else ["all layers (rollout)", "its prior"]
    table = columns("at", *(name for _, _, name in heads), *all_layers)
    for k, character in enumerate(text):
        one = last.isel(key_position=k)
        cells = []
        for layer, head, _ in heads:
            cell = one.isel(layer=layer, head=head)
            likely = float(cell["above_uniform"]) > 0.95 and not np.isnan(cell["sd"])
            star = " *" if likely else ""
            cells.append(interval(cell, sign="") + star)
        if through is not None:
            flow = through.isel(query_position=-1, key_position=k)
            cells += [interval(flow.sel(source=s), sign="") for s in ("posterior", "prior")]
        table.add_row(f"{k + 1} {plots.visible(character)}", *cells)
    cells = []
    for layer, head, _ in heads:
        cell = last.isel(layer=layer, head=head)
        part = {"mean": cell["effective_positions"]}
        part |= {end: cell[f"effective_positions_{end}"] for end in ("lower", "upper")}
        cells.append(interval(part, sign=""))
    table.add_row("effective number of positions", *cells, style="dim")
    OUT.print()
    print_table(title, table)


def _print_roles(roles):
    """For each role the head that has most of it, which needs no matching, and what was learned."""
    table = columns("looks at", "posterior", "prior", "P(more than prior)", "the head of it")
    first = roles.ranks.isel(rank=0)
    for role in roles.ranks["role"].values:
        one, heads = first.sel(role=role), roles.heads.sel(role=role, source="posterior")
        table.add_row(
            str(role),
            interval(one.sel(source="posterior")),
            interval(one.sel(source="prior")),
            with_error(one["exceeds_prior"], one["exceeds_prior_mcse"]),
            _most_probable(heads),
        )
    title = "Roles: attention beyond uniform of the head that has most of it in each draw"
    print_table(title, table)
    if roles.left_out:
        OUT.print(f"not in these contexts: {', '.join(roles.left_out)}", "", sep="\n")
    learned = [each.text for each in attention.role_sentences(roles) if each.learned]
    lines = learned or ["no head does anything that the prior does not do as much"]
    OUT.print(Text("What the text taught heads, as far as they have names", "bold"))
    OUT.print(*(f"  {line}" for line in lines), "", sep="\n", markup=False, soft_wrap=True)


def _most_probable(heads):
    layer, head, name = max(
        named_heads(heads.sizes),
        key=lambda each: float(heads["probability"].isel(layer=each[0], head=each[1])),
    )
    one = heads.isel(layer=layer, head=head)
    p = with_error(one["probability"], one["probability_mcse"])
    return f"{name}, with probability {p}"


def _print_head_removal(removal):
    table = columns("without", "posterior", "prior", "P(it costs)")
    for layer, head, name in named_heads(removal.average.sizes):
        one = removal.average.isel(layer=layer, head=head)
        table.add_row(name, *costs(one))
    title = "What predictions lose, nats per character"
    print_table(title, table)


def _print_position_removal(removal):
    table = columns("without the position", "posterior", "prior", "P(it costs)")
    for k in reversed(range(removal.average.sizes["position"])):
        one = removal.average.isel(position=k)
        table.add_row(f"{int(one['back'])} back", *costs(one))
    n = removal.contexts.sizes["sequence"]
    print_table(f"What the next character loses, nats, average over {n} contexts", table)
    for measure in removal.agreement["measure"].values:
        one = removal.agreement.sel(measure=measure)
        ours, theirs = (interval(one.sel(source=source)) for source in ("posterior", "prior"))
        OUT.print(
            f"rank correlation of attention ({measure}) with the effect of removal: {ours}; "
            f"prior {theirs}",
            soft_wrap=True,
        )
    OUT.print()


def _draw(summary, path):
    panels = list(named_heads(summary.sizes))
    columns = min(summary.sizes["head"], 4)
    fig, axes = plots.figure(len(panels), width=4.2 * columns, height=4.0, columns=columns)
    for ax, (layer, head, name) in zip(axes, panels, strict=True):
        one = summary.isel(layer=layer, head=head)
        plots.plot_attention(one, text=str(summary["text"].values), ax=ax)
        ax.set_title(name)
    fig.savefig(path, dpi=150)
    plots.close(fig)
