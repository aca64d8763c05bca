"""What a head does: attention to kinds of places, beyond what a uniform look gives them."""

from __future__ import annotations

import numpy as np
import xarray as xr


def attention_back(weights: xr.DataArray, distance: int) -> xr.DataArray:
    """Attention to the character some positions back, beyond what uniform attention gives it.

    Parameters
    ----------
    weights : DataArray (..., query_position, key_position)
    distance : int
        0 for the position itself, 1 for the previous character.

    Returns
    -------
    DataArray (...)
        Mean over the query positions, from the second on, that have such a character; 0 for a
        head that looks everywhere alike.

    Raises
    ------
    ValueError
        If no position has one.
    """
    n = weights.sizes["query_position"]
    first = max(1, distance)
    if not 0 <= distance < n or first >= n:
        raise ValueError(f"distance must be between 0 and {n - 1}, got {distance}")
    query = xr.DataArray(np.arange(first, n), dims="query_position")
    attended = weights.isel(query_position=query, key_position=query - distance)
    return (attended - 1 / (query + 1)).mean("query_position")
