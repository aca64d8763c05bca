"""`gptbayes report`."""

from __future__ import annotations

from pathlib import Path

from gptbayes import report
from gptbayes.cli.terminal import OUT, command


def add_report(commands) -> None:
    parser = command(
        commands.add_parser,
        _report,
        "report",
        help="write the report of a fit",
        description="Write one self-contained HTML page about a fit into its run directory.",
        epilog="""
            gptbayes report runs/05-nuts
            gptbayes report runs/05-nuts runs/05-pathfinder runs/05-optimize
        """,
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="the fit that the page is about")
    help_text = "other fits of the same text, to compare its predictions with"
    parser.add_argument("beside", type=Path, nargs="*", metavar="RUN", help=help_text)


def _report(arguments):
    path = report.write_report(arguments.run, arguments.beside)
    OUT.print(str(path), markup=False, soft_wrap=True)
