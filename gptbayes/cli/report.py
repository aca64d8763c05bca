"""`gptbayes report`."""

from __future__ import annotations

from pathlib import Path

from gptbayes.cli.terminal import ERR, describe, print_path
from gptbayes.report import write_report


def add_arguments(parser) -> None:
    add = describe(
        parser,
        _report,
        description="Write one self-contained HTML page about a fit into its run directory.",
        examples="""
            gptbayes report runs/05-nuts
            gptbayes report runs/05-nuts runs/05-pathfinder runs/05-optimize
        """,
    )
    add("run", type=Path, metavar="RUN", help="the fit that the page is about")
    help_text = "other fits of the same text, compared with it on held-out text"
    add("beside", type=Path, nargs="*", metavar="RUN", help=help_text)


def _report(arguments):
    with ERR.status("reading") as status:
        path = write_report(arguments.run, arguments.beside, on_step=status.update)
    print_path(path)
