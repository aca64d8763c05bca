"""The command: ``gptbayes`` and ``python -m gptbayes``."""

from __future__ import annotations

import gc
import sys

from gptbayes import signals

COLLECT_AFTER = 50_000
"""New objects after which Python looks for cycles of them; by default a few hundred, which takes
half a second while modules are imported and figures drawn."""


def run() -> int:
    """Run the command line of this process; see `gptbayes.signals.run`."""

    gc.set_threshold(COLLECT_AFTER)

    def command():
        from gptbayes.cli import main  # takes a second, in which signals may come

        return main()

    return signals.run(command)


if __name__ == "__main__":
    sys.exit(run())
