"""How the report says numbers and names."""

from __future__ import annotations

import numpy as np

METHOD_NAMES = {
    "nuts": "NUTS",
    "pathfinder": "Pathfinder",
    "optimize": "posterior mode",
    "prior": "prior draws",
}


def percent(share: float) -> str:
    """A share as per cent."""
    return f"{100 * share:.0f} %"


def plus_minus(value: float, error: float) -> str:
    """A signed value with its standard error."""
    return f"{float(value):+.1f} ± {float(error):.1f}"


def spread(n: int, count: int) -> np.ndarray:
    """Indices of ``count`` items spread over ``n``."""
    return np.unique(np.linspace(0, n - 1, min(n, count)).round().astype(int))
