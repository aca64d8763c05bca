"""`gptbayes text`."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import xarray as xr
from rich.cells import cell_len
from rich.text import Text

from gptbayes import predict
from gptbayes.cli.terminal import ERR, OUT, command, print_findings
from gptbayes.diagnostics.sampler import quick_findings
from gptbayes.inference import open_run, problem_of
from gptbayes.plots import visible
from gptbayes.report import texts_page
from gptbayes.report.checks import check_findings
from gptbayes.report.format import headline
from gptbayes.report.texts import LEVELS, UNSURE, level, sentence, unsure

STYLES = ("bright_red", "yellow", "cyan", "", "bold")
"""By the level of a character's probability, the least probable first."""
SURPRISE, DOUBT = ".", "?"
"""Below characters where there is no colour: the least probable, and those that are unsure."""


def add_text(commands) -> None:
    parser = command(
        commands.add_parser,
        _text,
        "text",
        help="write text, and say how sure the posterior is of each character",
        description="Write text after a prompt. A coherent text is written by one posterior draw "
        "from beginning to end, in a marginal one each character is drawn from the posterior mean. "
        "Characters are coloured by their probability, those that the posterior does not know "
        f"within {UNSURE} are reversed; without colours, marks below the line say the same.",
        epilog="""
            gptbayes text runs/05-nuts --prompt "better t"
            gptbayes text runs/05-nuts --prompt "better t" --length 200 --texts 5 --html text.html
            gptbayes text runs/05-nuts --check
        """,
    )
    add = parser.add_argument
    add("run", type=Path, metavar="RUN")
    add("--prompt", help="of characters of the vocabulary (the beginning of the held-out text)")
    add("--length", type=int, default=200, help="characters to write (200)")
    add("--texts", type=int, default=3, help="how many (3)")
    add("--kind", choices=predict.KINDS, default="coherent", help="(coherent)")
    add("--prior", action="store_true", help="let the prior write")
    add("--prob", type=float, default=0.9, help="mass of the intervals (0.9)")
    add("--seed", type=int, default=1, help="(1)")
    add("--html", type=Path, metavar="FILE.html", help="a page where pointing shows the numbers")
    add("--out", type=Path, metavar="FILE.csv", help="the numbers, one row per character")
    help_text = "would one take the held-out text for something that this model wrote?"
    add("--check", action="store_true", help=help_text)


def _text(arguments):
    idata = open_run(arguments.run)
    problem = problem_of(idata)
    group = "prior" if arguments.prior else "posterior"
    rng = np.random.default_rng(arguments.seed)
    prompt = arguments.prompt
    if prompt is None:
        prompt = problem.vocabulary.decode(problem.held_out.x[0])
    predict.encode_prompt(problem.vocabulary, prompt)  # refused before anything takes time
    with ERR.status("writing") as status:
        authors = {"coherent": predict.coherent, "marginal": predict.marginal}
        write = authors[arguments.kind]
        written = write(idata, prompt, arguments.length, rng, n_texts=arguments.texts, group=group)
        titled = {}
        for k, text in enumerate(written.texts):
            status.update(f"reading text {k + 1} of {len(written.texts)}")
            scored = predict.score_text(idata, prompt, text, prob=arguments.prob, group=group)
            titled[_title(written, k, group)] = scored
        checks = None
        if arguments.check:
            status.update("writing as much as was held out, 400 times")
            checks = predict.check_text(idata, rng, prob=arguments.prob, group=group)
    _print_prompt(prompt, problem.design.block_size)
    for title, scored in titled.items():
        OUT.print()
        OUT.print(Text(title, "bold"))
        _print_text(scored)
        OUT.print(sentence(scored), markup=False, soft_wrap=True)
    _print_legend()
    OUT.print()
    if checks:
        title = "Would one take the held-out text for something that this model wrote?"
        OUT.print(Text(title, "bold"), soft_wrap=True)
        print_findings(check_findings(checks))
    print_findings(f for f in headline(idata, quick_findings(idata)) if not f.ok)
    if arguments.html:
        page = texts_page(idata, titled, seed=arguments.seed)
        arguments.html.write_text(page, encoding="utf-8")
        OUT.print(str(arguments.html), markup=False, soft_wrap=True)
    if arguments.out:
        _table(titled).to_csv(arguments.out)
        OUT.print(str(arguments.out), markup=False, soft_wrap=True)


def _title(written, k, group):
    who = "the prior" if group == "prior" else "the posterior"
    if written.draw is None:
        return f"marginal text {k + 1}, each character from the mean of {who}"
    chain, draw = written.chain[k] + 1, written.draw[k] + 1
    return f"coherent text {k + 1}, by draw {draw} of chain {chain} of {who}"


def _print_prompt(prompt, block_size):
    OUT.print(Text("prompt", "bold"), Text(visible(prompt)), sep="\n", soft_wrap=True)
    if len(prompt) > block_size:
        read = visible(prompt[-block_size:])
        note = f"the model reads only its last {block_size} characters: {read}"
        OUT.print(Text(note, "dim"), soft_wrap=True)


def _print_text(scored):
    """With colours, or with marks below each line."""
    rows = [scored.isel(new_position=k) for k in range(scored.sizes["new_position"])]
    for line in _lines(rows, min(OUT.width, shutil.get_terminal_size().columns, 100)):
        shown = Text()
        for row in line:
            style = STYLES[level(row["mean"])]
            shown.append(_shown(row), f"{style} reverse" if unsure(row) else style)
        OUT.print(shown, soft_wrap=True)
        if not OUT.color_system:
            below = "".join(_mark(row).ljust(cell_len(_shown(row))) for row in line)
            OUT.print(below.rstrip(), markup=False, soft_wrap=True)


def _mark(row):
    if unsure(row):
        return DOUBT
    return SURPRISE if level(row["mean"]) == 0 else " "


def _print_legend():
    bounds = ["0", *(f"{p:g}" for p in LEVELS), "1"]
    if not OUT.color_system:
        words = (
            f"{SURPRISE} a probability below {LEVELS[0]:g}, {DOUBT} one not known within {UNSURE}"
        )
        OUT.print(f"below characters: {words}")
        return
    legend = Text("probability ")
    for style, low, high in zip(STYLES, bounds[:-1], bounds[1:], strict=True):
        legend.append(f"{low} to {high}", style).append("  ")
    OUT.print(legend + Text(f"not known within {UNSURE}", "reverse"), soft_wrap=True)


def _lines(rows, width):
    """Characters by line: a new one after a line break, and where the terminal ends."""
    line, used = [], 0
    for row in rows:
        line.append(row)
        used += cell_len(_shown(row))
        if row["character"].item() == "\n" or used >= width - 1:
            yield line
            line, used = [], 0
    if line:
        yield line


def _shown(row):
    character = row["character"].item()
    return "↵" if character == "\n" else character


def _table(titled):
    names = xr.DataArray(list(titled), dims="text", name="text")
    return xr.concat([scored.reset_coords() for scored in titled.values()], names).to_dataframe()
