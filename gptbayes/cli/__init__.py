"""The gptbayes command: a thin layer over the library, one file for each command.

Exit status: 0 done, 1 failed, 2 bad input. Bad input is answered in one line. A command is imported
when it is run, so that help answers at once.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import sys
import warnings
from collections.abc import Sequence

import gptbayes
from gptbayes.cli.terminal import ERR, add_examples

COMMANDS = {
    "setup": "find, download or build CmdStan",
    "stages": "list the stages of the ladder",
    "fit": "fit a stage to a text",
    "text": "generate text, with the uncertainty of each character",
    "attention": "attention weights, detection patterns and ablations",
    "symmetry": "distinguish symmetries of the weights from disagreement of the chains",
    "mixing": "distinguish symmetries from disagreement of the chains, for any model",
    "evidence": "compare the evidence of fits by sequential Monte Carlo",
    "compare": "compare fits of the same text",
    "report": "write the report of a fit",
}
"""Each is a module of this package with a function ``add_arguments(parser)``."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments; those of the process by default.

    Returns
    -------
    int
        Exit status.

    See Also
    --------
    gptbayes.signals.run : What a signal does to the command.
    """
    # ArviZ 0.2x announces its 1.0 once a day to every program that imports it.
    warnings.filterwarnings("ignore", r"\s*ArviZ is undergoing a major refactor", FutureWarning)
    argv = sys.argv[1:] if argv is None else list(argv)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # what it cannot show is no reason to lose the rest
            stream.reconfigure(errors="backslashreplace")
    arguments = _parser(argv[0] if argv else None).parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("gptbayes").setLevel(logging.INFO)
    try:
        arguments.act(arguments)
    except ValueError as error:
        return _fail(error, 2)
    except (RuntimeError, OSError) as error:
        return _fail(error, 1)
    return 0


def _fail(error, status):
    text = " ".join(str(error).split()) or type(error).__name__
    ERR.print(f"gptbayes: {text}", soft_wrap=True)
    return status


def _parser(wanted):
    """The parser, with the arguments of one command: the others are not imported."""
    parser = argparse.ArgumentParser(
        prog="gptbayes",
        description="Bayesian analysis of small GPTs: fits with NUTS or Pathfinder, and reports.",
    )
    add_examples(
        parser,
        """
        gptbayes fit --stage 05 --method nuts --out runs/05
        gptbayes report runs/05
        """,
    )
    parser.add_argument("--version", action="version", version=gptbayes.__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, summary in COMMANDS.items():
        command = commands.add_parser(name, help=summary)
        if name == wanted:
            importlib.import_module(f"gptbayes.cli.{name}").add_arguments(command)
    return parser
