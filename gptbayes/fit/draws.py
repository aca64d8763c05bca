"""Read what CmdStan wrote, and write as it does."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import stanio

from gptbayes.fit.directory import read_config

CHUNK_BYTES = 4_000_000
"""Of text that is parsed at a time: enough to be quick, little beside the draws."""

# Every converter of pandas 3.1 is exact; before that, one was, and had to be asked for.
_EXACT = (
    {}
    if tuple(int(part) for part in pd.__version__.split(".")[:2]) >= (3, 1)
    else {"float_precision": "round_trip"}
)

# Of each method: what its files are called, and the settings that count them and their draws.
_UNITS = {
    "nuts": ("chain", "chains", "iter_sampling"),
    "pathfinder": ("path", "paths", "draws"),
    "optimize": ("start", "starts", None),
    "prior": ("prior", None, "draws"),
    "smc": ("replicate", "replicates", "draws"),
}


class Draws(NamedTuple):
    """What one CSV file holds.

    Attributes
    ----------
    variables : dict of str to ndarray
        Stan's variables, each ``(draw, stan_shape)``: views of one table, in its order.
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
    return list(iter_draws(folder))


def iter_draws(folder: str | Path) -> Iterator[Draws]:
    """The same one by one, so that not all chains need be in memory.

    Raises
    ------
    ValueError
        As `read_draws`; for a missing file before anything is read.
    """
    config = read_config(folder)
    word, _, n_draws = _UNITS[config["method"]]
    n_rows = config["settings"][n_draws] if n_draws else 1
    paths = [Path(folder) / "csv" / f"{word}-{k + 1}.csv" for k in range(n_units(config))]
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        raise ValueError(
            f"{folder} is not finished, {', '.join(missing)} missing: run the same fit again "
            "and it goes on from there"
        )
    return (read_csv(path, n_rows) for path in paths)


def n_units(config: dict) -> int:
    """How many chains, paths or starts a run of this configuration has."""
    _, count, _ = _UNITS[config["method"]]
    return config["settings"][count] if count else 1


def read_csv(path: Path, n_draws: int) -> Draws:
    """Read one Stan CSV file; every number is the one that was written, to the last bit.

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
    with _open(path) as file:
        header = _header(path, file)
        n_columns, filled, timing = header.count(",") + 1, 0, []
        table = np.empty((n_draws, n_columns))
        for rows in _chunks(path, file, n_columns, n_draws, timing):
            table[filled : filled + len(rows)] = _numbers(path, rows, n_columns)
            filled += len(rows)
    variables, method_variables = {}, {}
    for name, variable in stanio.parse_header(header).items():
        columns = table[:, variable.start_idx : variable.end_idx]
        shape = tuple(variable.dimensions)
        # The first index runs fastest: in C order the axes stand the other way round.
        backwards = columns.reshape(n_draws, *shape[::-1])
        values = backwards.transpose(0, *range(len(shape), 0, -1))
        if name.endswith("__"):
            method_variables[name.removesuffix("__")] = values
        else:
            variables[name] = values
    time = re.search(rb"([\d.]+) seconds \((?:Total|Pathfinder)\)", b"".join(timing))
    return Draws(variables, method_variables, float(time[1]) if time else float("nan"))


def check_csv(path: Path, n_draws: int) -> None:
    """Whether a Stan CSV file is whole, without reading its numbers.

    Raises
    ------
    ValueError
        If rows are missing, or one has not as many numbers as there are names.
    """
    with _open(path) as file:
        n_columns = _header(path, file).count(",") + 1
        for _ in _chunks(path, file, n_columns, n_draws, []):
            pass


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


def _open(path):
    try:
        return open(path, "rb")
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error}") from None


def _header(path, file):
    """The line with the names."""
    for line in file:
        if not line.startswith(b"#"):
            return line.strip().decode(errors="replace")
    raise ValueError(f"{path} is truncated: it has no line with the names of its columns")


def _chunks(path, file, n_columns, n_draws, timing):
    """The lines of numbers, some at a time; comments on time spent go to ``timing``."""
    rows, n_bytes, n_rows = [], 0, 0
    for line in file:
        if line.startswith(b"#"):
            if b" seconds " in line:
                timing.append(line)
            continue
        n_rows += 1
        if n_rows > n_draws:
            break
        n_found = line.count(b",") + 1
        if n_found != n_columns or not line.endswith(b"\n"):
            raise ValueError(
                f"{path} is truncated or corrupted: row {n_rows} has {n_found} numbers or is cut "
                f"short, {n_columns} were wanted"
            )
        rows.append(line)
        n_bytes += len(line)
        if n_bytes > CHUNK_BYTES:
            yield rows
            rows, n_bytes = [], 0
    if n_rows != n_draws:
        raise ValueError(
            f"{path} is truncated or corrupted: {n_draws} draws were wanted, got "
            f"{'more' if n_rows > n_draws else n_rows}"
        )
    if rows:
        yield rows


def _numbers(path, rows, n_columns):
    """The numbers of some lines.

    For pandas they are one long column: its parser is three times as fast as numpy's, but not
    with tens of thousands of columns. It reads no "nan" here, numpy does, and says what is wrong.
    """
    column = b"".join(rows).replace(b"\n", b",")
    options = {"header": None, "dtype": np.float64, "lineterminator": ",", "sep": ";"}
    quicker = {"quoting": 3, "na_filter": False, "low_memory": False}
    try:
        frame = pd.read_csv(io.BytesIO(column), **options, **quicker, **_EXACT)
        return frame.to_numpy().reshape(len(rows), n_columns)
    except ValueError:  # pandas' own errors are ValueErrors
        pass
    try:
        return np.loadtxt(rows, delimiter=",", ndmin=2)
    except ValueError as error:
        raise ValueError(f"{path} is corrupted: {error}") from None
