"""`gptbayes report`."""

from __future__ import annotations

from pathlib import Path

from gptbayes.cli.terminal import check_targets, describe, print_path, status
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
    if arguments.run.is_dir():  # what is no run at all is told by the library
        check_targets(arguments.run / "report.html")
    with status("reading") as show:
        path = write_report(arguments.run, arguments.beside, on_step=show)
    print_path(path)
