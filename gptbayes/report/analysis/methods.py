"""Names of methods, and the methods whose draws are chains."""

from __future__ import annotations

from gptbayes.inference import CHAINS

METHOD_NAMES = {
    "nuts": "NUTS",
    "hmc": "HMC",
    "pathfinder": "Pathfinder",
    "optimize": "posterior mode",
    "prior": "prior draws",
    "smc": "sequential Monte Carlo",
}

__all__ = ["CHAINS", "METHOD_NAMES"]
