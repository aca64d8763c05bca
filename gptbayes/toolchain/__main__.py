"""``python -m gptbayes.toolchain``: make sure that there is a CmdStan, as ``gptbayes setup`` does.

It needs cmdstanpy, filelock and platformdirs only, and httpstan if a CmdStan must be built. The
Makefile calls it while pip installs the other packages.
"""

from __future__ import annotations

import logging
import sys

from gptbayes.toolchain import ToolchainError, ensure_cmdstan

if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        ensure_cmdstan()
    except ToolchainError as error:
        sys.exit(str(error))
