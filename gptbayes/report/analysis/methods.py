"""Names of methods, and the methods whose draws are chains."""

from __future__ import annotations

METHOD_NAMES = {
    "nuts": "NUTS",
    "pathfinder": "Pathfinder",
    "optimize": "posterior mode",
    "prior": "prior draws",
    "smc": "sequential Monte Carlo",
}
CHAINS = ("nuts", "smc")
"""Methods whose draws are chains; those of sequential Monte Carlo are its replicates."""
