"""The gptbayes command: a thin layer over the library, one room for each command.

Exit status: 0 done, 1 failed, 2 bad input. Bad input is answered in one line.
"""

from __future__ import annotations

import argparse
import logging
import sys
import warnings
from collections.abc import Sequence

# ArviZ 0.2x announces its 1.0 once a day to every program that imports it.
warnings.filterwarnings("ignore", r"\s*ArviZ is undergoing a major refactor", FutureWarning)

import gptbayes  # noqa: E402
from gptbayes.cli.attention import add_attention  # noqa: E402
from gptbayes.cli.compare import add_compare  # noqa: E402
from gptbayes.cli.evidence import add_evidence  # noqa: E402
from gptbayes.cli.fit import add_fit, add_setup, add_stages  # noqa: E402
from gptbayes.cli.report import add_report  # noqa: E402
from gptbayes.cli.symmetry import add_symmetry  # noqa: E402
from gptbayes.cli.terminal import ERR, command, progress_bars  # noqa: E402
from gptbayes.cli.text import add_text  # noqa: E402

__all__ = ["main", "progress_bars"]


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
    """
    arguments = _parser().parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("gptbayes").setLevel(logging.INFO)
    try:
        arguments.act(arguments)
    except ValueError as error:
        return _fail(error, 2)
    except (RuntimeError, OSError) as error:
        return _fail(error, 1)
    except KeyboardInterrupt:
        return _fail(
            "interrupted; what was finished is kept, the same command goes on from there", 1
        )
    return 0


def _fail(error, status):
    text = " ".join(str(error).split()) or type(error).__name__
    ERR.print(f"gptbayes: {text}", soft_wrap=True, markup=False)
    return status


def _parser():
    parser = command(
        argparse.ArgumentParser,
        None,
        prog="gptbayes",
        description="Bayesian analysis of small GPTs: fit them with NUTS or Pathfinder and report.",
        epilog="""
            gptbayes fit --stage 05 --method nuts --out runs/05
            gptbayes report runs/05
        """,
    )
    parser.add_argument("--version", action="version", version=gptbayes.__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    add_setup(commands)
    add_stages(commands)
    add_fit(commands)
    add_text(commands)
    add_attention(commands)
    add_symmetry(commands)
    add_evidence(commands)
    add_compare(commands)
    add_report(commands)
    return parser
