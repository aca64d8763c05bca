"""Disk and memory that a fit needs, told before it begins."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gptbayes.model.problem import Problem
from gptbayes.toolchain.system import usable_memory

N_PRIOR_DRAWS = 500
"""Draws from the prior that a run has beside those of the posterior."""

BYTES_ON_DISK = 22 + 8
"""Of a number with 17 significant digits in a CSV file, and in netCDF."""

BYTES_IN_MEMORY = 4 * 8
"""Of a number that is read, converted, saved and analyzed."""


FEWEST_DRAWS = 100
"""Of a chain that is thinned: with fewer, take fewer chains or a smaller model instead."""


def check_resources(
    problem: Problem, folder: Path, n_draws: int, settings: Mapping[str, Any]
) -> None:
    """See that the draws of a fit have room.

    Parameters
    ----------
    problem : Problem
    folder : pathlib.Path
        The run directory.
    n_draws : int
        Of all chains, paths or starts.
    settings : mapping
        Of the method. Markov chains can be thinned.

    Raises
    ------
    RuntimeError
        If disk or memory are too small. The message says how many draws have room, and how a new
        run of Markov chains would be thinned to so many.
    """
    n_weights = problem.stage.n_parameters(problem.design)
    parts = {
        "weights": n_weights,
        "log densities": problem.n_targets,
        "generated characters": problem.n_new_tokens,
    }
    per_draw = sum(parts.values())
    present = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    from_prior = N_PRIOR_DRAWS * n_weights * 8
    room = {
        "disk": (BYTES_ON_DISK, from_prior, shutil.disk_usage(folder).free + present),
        "memory": (BYTES_IN_MEMORY, 2 * from_prior, usable_memory()),
    }
    for what, (per_number, others, have) in room.items():
        need, per = n_draws * per_draw * per_number + others, per_draw * per_number
        if have is not None and need > have:
            numbers = ", ".join(f"{n:,} {name}" for name, n in parts.items() if n)
            most = max(0, have - others) // per
            new = not (folder / "config.json").exists()
            raise RuntimeError(
                f"{n_draws:,} draws of {numbers} need about {_megabytes(need)} of {what}, got "
                f"{_megabytes(have)}: at most {most:,} draws have room, so "
                f"{_thinned(settings, most) if new else ''}"
                "take fewer chains, fewer draws of each, or a smaller model"
            )


def _thinned(settings, most):
    """What to thin by, if the chains of a method can be thinned and enough is left of each."""
    if "thin" not in settings:
        return ""
    n, chains = settings["iter_sampling"], settings["chains"]
    have_room = (k for k in _divisors(n) if FEWEST_DRAWS <= n // k <= most // chains)
    if thin := next(have_room, None):
        kept = f"{chains * n // thin:,} draws"
        return f"keep one draw in {thin:,} of each chain (--thin {thin}: {kept}), or "
    return ""


def _divisors(n):
    """In ascending order."""
    small = [k for k in range(1, math.isqrt(n) + 1) if n % k == 0]
    return sorted({*small, *(n // k for k in small)})


def _megabytes(n_bytes):
    return f"{n_bytes / 1e6:,.0f} MB"
