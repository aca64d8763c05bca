"""The command: ``gptbayes`` and ``python -m gptbayes``."""

from __future__ import annotations

import sys

from gptbayes import signals


def run() -> int:
    """Run the command line of this process; see `gptbayes.signals.run`."""

    def command():
        from gptbayes.cli import main  # takes a second, in which signals may come

        return main()

    return signals.run(command)


if __name__ == "__main__":
    sys.exit(run())
