"""Disk and memory that a fit needs, told before it begins."""

from __future__ import annotations

import shutil
from pathlib import Path

from gptbayes.model.problem import Problem
from gptbayes.toolchain.system import physical_memory

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
    room = {
        "disk": (BYTES_ON_DISK * per_draw, shutil.disk_usage(folder).free + present),
        "memory": (BYTES_IN_MEMORY * per_draw, physical_memory()),
    }
    for what, (per, have) in room.items():
        if have is not None and n_draws * per > have:
            numbers = ", ".join(f"{n:,} {name}" for name, n in parts.items() if n)
            raise RuntimeError(
                f"{n_draws:,} draws of {numbers} need about {_megabytes(n_draws * per)} of {what}, "
                f"got {_megabytes(have)}: at most {have // per:,} draws have room, so take fewer "
                "chains, fewer draws of each, or a smaller model"
            )


def _megabytes(n_bytes):
    return f"{n_bytes / 1e6:,.0f} MB"
