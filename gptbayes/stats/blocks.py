"""Work on many scalars, a block of them at a time."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

BLOCK_BYTES = 2**20
"""Draws of one block; with their copies they stay within a processor's cache."""
MIN_BLOCKS = 4
"""Fewer blocks are not worth threads. numpy sorts and transforms outside the interpreter's lock."""
FREED_BYTES = 30 * 2**20


def over_blocks(function: Callable[[slice], None], n_scalars: int, n_draws: int) -> None:
    """Call a function for one block of scalars after another, in several threads.

    Parameters
    ----------
    function : callable
        Of a slice of the scalars; floating-point warnings are off while it runs.
    n_scalars : int
    n_draws : int
        Of each scalar, chains together: blocks have about a megabyte of draws.
    """
    size = max(1, BLOCK_BYTES // (8 * max(1, n_draws)))
    blocks = [slice(start, start + size) for start in range(0, n_scalars, size)]

    def quietly(block):
        with np.errstate(all="ignore"):
            function(block)

    if 8 * n_scalars * n_draws > FREED_BYTES:
        _keep_freed_memory()
    if len(blocks) < MIN_BLOCKS:
        for block in blocks:
            quietly(block)
    else:
        with ThreadPoolExecutor() as pool:
            list(pool.map(quietly, blocks))


def scalars_first(draws: np.ndarray) -> np.ndarray:
    """Draws of some scalars as ``(scalar, chain, draw)``, those of one scalar next to each other.

    Parameters
    ----------
    draws : ndarray, (chain, draw, scalar)

    Returns
    -------
    ndarray of float, (scalar, chain, draw)
    """
    return np.ascontiguousarray(np.moveaxis(draws, -1, 0), dtype=float)


def _keep_freed_memory():
    """Let the allocator keep what blocks free, instead of asking the system for it again.

    GNU's adapts to the largest array freed so far, up to 32 MiB. Without this, page faults take
    as long as the arithmetic. The array is never touched, and other allocators are not affected.
    """
    np.empty(FREED_BYTES, dtype=np.uint8)
