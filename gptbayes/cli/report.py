"""`gptbayes report`."""

from __future__ import annotations

from pathlib import Path

from gptbayes.cli.terminal import check_targets, describe, print_path, status
from gptbayes.report import FORMATS, write_report


def add_arguments(parser) -> None:
    add = describe(
        parser,
        _report,
        description="Write a report about a fit into its run directory, as one self-contained "
        "HTML page by default.",
        examples="""
            gptbayes report runs/05-nuts
            gptbayes report runs/05-nuts runs/05-pathfinder runs/05-optimize
            gptbayes report runs/05-nuts --format html md pdf --export paper/
        """,
    )
    add("run", type=Path, metavar="RUN", help="the fit that the page is about")
    help_text = "other fits of the same text, compared with it on held-out text"
    add("beside", type=Path, nargs="*", metavar="RUN", help=help_text)
    help_text = "html, md (Markdown) or pdf (printed by Chromium); default html"
    add("--format", nargs="+", choices=FORMATS, default=["html"], help=help_text)
    help_text = "write every table as CSV and every figure as SVG and PNG to this folder"
    add("--export", type=Path, metavar="FOLDER", help=help_text)


def _report(arguments):
    if arguments.run.is_dir():  # what is no run at all is told by the library
        check_targets(*(arguments.run / f"report.{each}" for each in arguments.format))
    with status("reading") as show:
        path = write_report(
            arguments.run,
            arguments.beside,
            formats=arguments.format,
            export=arguments.export,
            on_step=show,
        )
    for each in dict.fromkeys(arguments.format):
        print_path(path.with_suffix(f".{each}"))
    if arguments.export:
        print_path(arguments.export)
