"""Names of methods, and helpers that the quantities share."""

from __future__ import annotations

import numpy as np

METHOD_NAMES = {
    "nuts": "NUTS",
    "pathfinder": "Pathfinder",
    "optimize": "posterior mode",
    "prior": "prior draws",
    "smc": "sequential Monte Carlo",
}
CHAINS = ("nuts", "smc")
"""Methods whose draws are chains; those of sequential Monte Carlo are its replicates."""


def evenly_spaced(n: int, count: int) -> np.ndarray:
    """Indices of at most ``count`` items evenly spaced among ``n``."""
    return np.unique(np.linspace(0, n - 1, min(n, count)).round().astype(int))
