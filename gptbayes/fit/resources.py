"""Disk and memory that a fit needs, told before it begins."""

from __future__ import annotations

import shutil
from pathlib import Path

from gptbayes.model.problem import Problem
from gptbayes.toolchain.system import physical_memory

BYTES_PER_VALUE = 22
"""Size of a number in a CSV file with 17 significant digits."""


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
    n_columns = problem.stage.n_parameters(problem.design) + problem.n_targets
    n_values = n_draws * (n_columns + problem.n_new_tokens)
    present = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    on_disk = n_values * (BYTES_PER_VALUE + 8) - present  # CSV and netCDF
    in_memory = 4 * 8 * n_values  # draws are read, converted, saved and analyzed
    free = shutil.disk_usage(folder).free
    needs = [(on_disk, free, "disk"), (in_memory, physical_memory(), "memory")]
    for need, have, what in needs:
        if have is not None and need > have:
            raise RuntimeError(
                f"{n_draws} draws of {n_columns} numbers need about {_megabytes(need)} of {what}, "
                f"got {_megabytes(have)}"
            )


def _megabytes(n_bytes):
    return f"{n_bytes / 1e6:,.0f} MB"
