"""Selections of evenly spaced items."""

from __future__ import annotations

import numpy as np


def evenly_spaced(n: int, count: int) -> np.ndarray:
    """Indices of evenly spaced items, the first and the last included.

    Parameters
    ----------
    n : int
        Number of items.
    count : int
        Largest number of items to select.

    Returns
    -------
    ndarray of int, (min(n, count),)

    Examples
    --------
    >>> evenly_spaced(10, 4)
    array([0, 3, 6, 9])
    >>> evenly_spaced(2, 4)
    array([0, 1])
    """
    return np.unique(np.linspace(0, n - 1, min(n, count)).round().astype(int))
