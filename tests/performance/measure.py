"""Who is measured, how, and how the times are told.

Processor time, not the clock's: the machine may have other things to do. Everybody is measured by
turns, so that a slow minute is a slow minute for all, and ratios are taken within a turn.
"""

from __future__ import annotations

import math
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from densities import Density

TOLERANCE = 1e-9
"""Relative; terms cancel, so that of the largest element of a parameter a thousandth counts too."""


class Peer(NamedTuple):
    """One way to the same log posterior.

    Attributes
    ----------
    name : str
    density : callable
        Its log density and gradient at the point where it is measured.
    seconds : callable
        Of the processor, for one gradient, on average over at least as many as are asked for.
    """

    name: str
    density: Callable[[], Density]
    seconds: Callable[[int], float]


def check(peer: Peer, reference: Density) -> None:
    """Stop everything if a peer computes something else: a comparison would mean nothing."""
    found = peer.density()
    if abs(found.value - reference.value) > TOLERANCE * abs(reference.value):
        _void(peer, f"has log density {found.value!r}, we have {reference.value!r}")
    for name, ours in reference.gradient.items():
        theirs = found.gradient[name]
        if theirs.shape != ours.shape:
            _void(peer, f"has a gradient of shape {theirs.shape} for {name}, we {ours.shape}")
        error = np.abs(theirs - ours)
        allowed = TOLERANCE * (np.abs(ours) + 1e-3 * np.abs(ours).max())
        if not (error <= allowed).all():  # nan is not
            _void(peer, f"has a gradient of {name} that differs from ours by {error.max():.2g}")


def by_turns(peers: Sequence[Peer], turns: int, budget: float) -> dict[str, np.ndarray]:
    """Milliseconds of one gradient, (turn) each; a turn takes ``budget`` seconds of each peer."""
    counts = {peer.name: _count(peer, budget) for peer in peers}
    times = {peer.name: np.empty(turns) for peer in peers}
    for turn in range(turns):
        for peer in peers:
            times[peer.name][turn] = 1e3 * peer.seconds(counts[peer.name])
    return times


def processor_seconds(function: Callable[[], object]) -> float:
    """Of this process, all its threads, while a function runs."""
    before = time.process_time()
    function()
    return time.process_time() - before


def spread(values: np.ndarray) -> str:
    """Median and range, or the only value."""
    if len(values) == 1:
        return _digits(values[0])
    low, middle, high = (_digits(f(values)) for f in (np.min, np.median, np.max))
    return f"{middle} ({low} to {high})"


def table(times: Mapping[str, np.ndarray], ours: str) -> str:
    """A line each: milliseconds, and ratios to our times of the same turn."""
    lines = [f"  {'':<32}{'milliseconds':<26}times ours"]
    for name, values in times.items():
        ratio = "1" if name == ours else spread(values / times[ours])
        lines.append(f"  {name:<32}{spread(values):<26}{ratio}")
    return "\n".join(lines)


def machine() -> str:
    """What this was measured on, in one line."""
    model = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            model = next(line.split(":")[1].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        pass
    load = f", load average {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    return f"{model}, one core of {os.cpu_count()}{load}; medians and ranges, processor time"


def _count(peer, budget):
    """How many gradients take ``budget`` seconds; finding out warms up."""
    count = 1
    while (each := peer.seconds(count)) * count < budget / 4:
        count *= 4
    return max(1, math.ceil(budget / each))


def _digits(value):
    """Three of them, without an exponent."""
    decimals = max(0, 2 - math.floor(math.log10(abs(value)))) if value else 0
    return f"{value:.{decimals}f}"


def _void(peer, what):
    raise SystemExit(f"void: {peer.name} {what}, so that times cannot be compared")
