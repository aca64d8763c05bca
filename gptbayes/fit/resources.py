"""Disk and memory that a fit needs, told before it begins."""

from __future__ import annotations

import shutil
from pathlib import Path

from gptbayes.model.problem import Problem
from gptbayes.toolchain.system import physical_memory

N_PRIOR_DRAWS = 500
"""Draws from the prior that a run has beside those of the posterior."""

BYTES_ON_DISK = 22 + 8
"""Of a number with 17 significant digits in a CSV file, and in netCDF."""

BYTES_IN_MEMORY = 4 * 8
"""Of a number that is read, converted, saved and analyzed."""


def check_resources(problem: Problem, folder: Path, n_draws: int) -> None:
    """See that the draws of a fit have room.

    Parameters
    ----------
    problem : Problem
    folder : pathlib.Path
        The run directory.
    n_draws : int
        Of all chains, paths or starts.

    Raises
    ------
    RuntimeError
        If disk or memory are too small. The message says how many draws have room.
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
        "memory": (BYTES_IN_MEMORY, 2 * from_prior, physical_memory()),
    }
    for what, (per_number, others, have) in room.items():
        need, per = n_draws * per_draw * per_number + others, per_draw * per_number
        if have is not None and need > have:
            numbers = ", ".join(f"{n:,} {name}" for name, n in parts.items() if n)
            raise RuntimeError(
                f"{n_draws:,} draws of {numbers} need about {_megabytes(need)} of {what}, got "
                f"{_megabytes(have)}: at most {max(0, have - others) // per:,} draws have room, so "
                "take fewer chains, fewer draws of each, or a smaller model"
            )


def _megabytes(n_bytes):
    return f"{n_bytes / 1e6:,.0f} MB"
