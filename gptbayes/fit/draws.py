"""Read what CmdStan wrote, and write as it does."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import stanio
from cmdstanpy.utils import stancsv

from gptbayes.fit.directory import read_config


class Draws(NamedTuple):
    """What one CSV file holds.

    Attributes
    ----------
    variables : dict of str to ndarray
        Stan's variables, each ``(draw, stan_shape)``.
    method_variables : dict of str to ndarray
        What the algorithm says of each draw, each ``(draw,)``, without the trailing ``__``.
    seconds : float
        Time that CmdStan took, nan where it does not say.
    """

    variables: dict[str, np.ndarray]
    method_variables: dict[str, np.ndarray]
    seconds: float


def read_draws(folder: str | Path) -> list[Draws]:
    """The draws of a finished run, one item per chain, path or start.

    Raises
    ------
    ValueError
        If a CSV file is missing, truncated or corrupted; the message names it.
    """
    config = read_config(folder)
    word, count, n_draws = {
        "nuts": ("chain", "chains", "iter_sampling"),
        "pathfinder": ("path", "paths", "draws"),
        "optimize": ("start", "starts", None),
        "prior": ("prior", None, "draws"),
    }[config["method"]]
    settings = config["settings"]
    n_rows = settings[n_draws] if n_draws else 1
    n_files = settings[count] if count else 1
    paths = [Path(folder) / "csv" / f"{word}-{k}.csv" for k in range(1, n_files + 1)]
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        raise ValueError(
            f"{folder} is not finished, {', '.join(missing)} missing: run the same fit again "
            "and it goes on from there"
        )
    return [read_csv(path, n_rows) for path in paths]


def read_csv(path: Path, n_draws: int) -> Draws:
    """Read one Stan CSV file.

    Parameters
    ----------
    path : pathlib.Path
    n_draws : int
        How many rows there must be.

    Returns
    -------
    Draws

    Raises
    ------
    ValueError
        If it is not a complete Stan CSV file with that many draws.
    """
    try:
        comments, header, rows = stancsv.parse_comments_header_and_draws(path)
        table = stancsv.csv_bytes_list_to_numpy(rows)
    except (ValueError, OSError) as error:
        raise ValueError(f"{path} is corrupted: {error}") from None
    names = header.split(",") if header else []
    if table.shape != (n_draws, len(names)):
        raise ValueError(
            f"{path} is truncated or corrupted: {n_draws} draws of {len(names)} columns were "
            f"wanted, got {table.shape[0]} of {table.shape[1]}"
        )
    variables, method_variables = {}, {}
    for name, variable in stanio.parse_header(header).items():
        if name.endswith("__"):
            method_variables[name.removesuffix("__")] = variable.extract_reshape(table)
        else:
            variables[name] = variable.extract_reshape(table)
    time = re.search(rb"([\d.]+) seconds \((?:Total|Pathfinder)\)", b"".join(comments))
    return Draws(variables, method_variables, float(time[1]) if time else float("nan"))


def write_csv(path: Path, variables: Mapping[str, np.ndarray]) -> None:
    """Write draws as a Stan CSV file, in one step.

    Parameters
    ----------
    path : pathlib.Path
    variables : mapping of str to ndarray
        Each ``(draw, stan_shape)``.
    """
    names, columns = [], []
    for name, values in variables.items():
        for index in np.ndindex(values.shape[:0:-1]):  # the first index runs fastest
            names.append(".".join([name, *(str(i + 1) for i in reversed(index))]))
        columns.append(values.reshape(len(values), -1, order="F"))
    partial = path.with_name(f".{path.name}-{os.getpid()}")
    np.savetxt(
        partial,
        np.concatenate(columns, axis=1),
        fmt="%.17g",
        delimiter=",",
        header=",".join(names),
        comments="",
    )
    os.replace(partial, path)
