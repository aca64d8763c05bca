"""Work on many scalars or draws, a block of them at a time, in several threads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np

from gptbayes.processes import n_cores

Item = TypeVar("Item")
Result = TypeVar("Result")

THREADS = min(4, n_cores())
"""Blocks that are worked on at a time, each of which takes memory."""

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
        keep_freed_memory()
    in_threads(quietly, blocks, at_a_time=THREADS if len(blocks) >= MIN_BLOCKS else 1)


def in_threads(
    function: Callable[[Item], Result], items: Sequence[Item], *, at_a_time: int = THREADS
) -> list[Result]:
    """Call a function for each of several items, a few at a time.

    numpy computes outside the interpreter's lock, so that threads suffice.

    Parameters
    ----------
    function : callable
        It must not depend on the order of the calls. Floating-point warnings are as for the
        caller.
    items : sequence
    at_a_time : int
        Number of threads. Within a thread of another call there is only one.

    Returns
    -------
    list
        Results in the order of the items.
    """
    alone = threading.current_thread() is not threading.main_thread()
    if alone or at_a_time < 2 or len(items) < 2:
        return [function(item) for item in items]
    handling = np.geterr()  # which numpy keeps for each thread

    def call(item):
        with np.errstate(**handling):
            return function(item)

    with ThreadPoolExecutor(at_a_time) as pool:
        return list(pool.map(call, items))


def keep_freed_memory() -> None:
    """Let the allocator keep what blocks free, instead of asking the system for it again.

    GNU's adapts to the largest array freed so far, up to 32 MiB. Without this, page faults take
    as long as the arithmetic. The array is never touched, and other allocators are not affected.
    """
    np.empty(FREED_BYTES, dtype=np.uint8)


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
