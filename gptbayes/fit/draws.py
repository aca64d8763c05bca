"""Read and write draws as Stan CSV files."""

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

from gptbayes.files import replacing
from gptbayes.fit import manifest
from gptbayes.fit.directory import read_config
from gptbayes.fit.hmc_statistics import hmc_statistics
from gptbayes.fit.parts import File, files_of, warm_up_of

NOT_CONVERGED = "not converged"
"""Begins the comment in the CSV file of an optimizer that stopped before it converged."""
CHUNK_BYTES = 4_000_000
"""Size of the text that is parsed at a time: large enough for speed, small beside the draws."""

# pandas 3.1 and later parse exactly; earlier versions need the slower "round_trip" converter.
_EXACT = (
    {}
    if tuple(int(part) for part in pd.__version__.split(".")[:2]) >= (3, 1)
    else {"float_precision": "round_trip"}
)

# For each method: the name of its CSV files, and the settings with their number and their draws.
_UNITS = {
    "nuts": ("chain", "chains", "iter_sampling"),
    "hmc": ("chain", "chains", "iter_sampling"),
    "pathfinder": ("path", "paths", "draws"),
    "optimize": ("start", "starts", None),
    "prior": ("prior", None, "draws"),
    "smc": ("replicate", "replicates", "draws"),
}

MARKOV_CHAINS = ("nuts", "hmc")
"""Methods of which each unit is a Markov chain, which can be continued."""


class Draws(NamedTuple):
    """Contents of one CSV file.

    Attributes
    ----------
    variables : dict of str to ndarray
        Stan's variables in the order of the file, each ``(draw, *stan_shape)``: views of one table.
    method_variables : dict of str to ndarray
        Columns of the algorithm, such as ``lp``, without the trailing ``__``, each ``(draw,)``.
    seconds : float
        Elapsed time by CmdStan's account, in seconds; nan where the file has none.
    converged : bool
        False if an optimizer stopped before it converged.
    """

    variables: dict[str, np.ndarray]
    method_variables: dict[str, np.ndarray]
    seconds: float
    converged: bool = True


def read_draws(folder: str | Path) -> list[Draws]:
    """Read the draws of a finished run.

    Parameters
    ----------
    folder : path
        A run directory.

    Returns
    -------
    list of Draws
        One item for each chain, path or start.

    Raises
    ------
    ValueError
        If a CSV file is missing, truncated or corrupted. The message names the file.

    See Also
    --------
    iter_draws : The same with one item in memory at a time.
    gptbayes.inference.open_run : The run as InferenceData.
    """
    return list(iter_draws(folder))


def iter_draws(folder: str | Path) -> Iterator[Draws]:
    """Read the draws of a finished run one chain, path or start at a time.

    Parameters
    ----------
    folder : path
        A run directory.

    Returns
    -------
    iterator of Draws

    Raises
    ------
    ValueError
        As `read_draws`. Missing files are found before any file is read.
    """
    folder, config = Path(folder), read_config(folder)
    word, _, n_draws = _UNITS[config["method"]]
    n_rows = config["settings"][n_draws] if n_draws else 1
    units = range(1, n_units(config) + 1)
    if config["method"] in MARKOV_CHAINS:
        files = [files_of(folder, k, config["settings"]) for k in units]
    else:
        files = [[File(folder / "csv" / f"{word}-{k}.csv", n_rows)] for k in units]
    missing = [path.name for parts in files for path, _ in parts if not path.is_file()]
    if missing:
        names = ", ".join(missing[:4]) + (f" and {len(missing) - 4} more" if missing[4:] else "")
        raise ValueError(
            f"{folder} is not finished, {names} missing: run the same fit again to resume it"
        )
    apart = _warm_up_seconds(folder, config)
    return (
        _joined([_read_verified(folder, config, *part) for part in parts], apart.get(k, 0.0))
        for k, parts in zip(units, files, strict=True)
    )


def _warm_up_seconds(folder, config):
    """Seconds of warm-up of each chain, where it was a unit of its own that is still there."""
    if config["method"] != "hmc":
        return {}
    files = {k: warm_up_of(folder, k) for k in range(1, n_units(config) + 1)}
    there = {k: path for k, path in files.items() if path.is_file()}
    return {k: _verified_csv(folder, path, 1).seconds for k, path in there.items()}


def _read_verified(folder, config, path, n_draws):
    draws = _verified_csv(folder, path, n_draws)
    if config["method"] == "hmc":
        there, length = draws.method_variables, config["settings"]["trajectory_length"]
        return draws._replace(method_variables=there | hmc_statistics(path, there, length))
    return draws


def _verified_csv(folder, path, n_draws):
    manifest.verify(folder, path, "delete it and run the same fit again")
    return read_csv(path, n_draws)


def _joined(parts, seconds_before):
    """The parts of a chain as one."""
    if len(parts) == 1:
        return parts[0]._replace(seconds=parts[0].seconds + seconds_before)

    def together(which):
        each = [part[which] for part in parts]
        return {name: np.concatenate([part[name] for part in each]) for name in each[0]}

    seconds = seconds_before + sum(part.seconds for part in parts)
    return parts[0]._replace(variables=together(0), method_variables=together(1), seconds=seconds)


def n_units(config: dict) -> int:
    """The number of chains, paths, starts or replicates of a run.

    Parameters
    ----------
    config : dict
        As `gptbayes.fit.read_config` returns it.

    Returns
    -------
    int
    """
    _, count, _ = _UNITS[config["method"]]
    return config["settings"][count] if count else 1


def read_csv(path: Path, n_draws: int) -> Draws:
    """Read one Stan CSV file, without loss of precision.

    Parameters
    ----------
    path : pathlib.Path
    n_draws : int
        Required number of rows.

    Returns
    -------
    Draws

    Raises
    ------
    ValueError
        If the file is not a complete Stan CSV file with ``n_draws`` draws.
    """
    with _open(path) as file:
        header = _header(path, file)
        n_columns, filled = header.count(",") + 1, 0
        comments: list[bytes] = []
        least = 2 * n_draws * n_columns  # a digit and a comma: memory is not asked for in vain
        if (size := os.fstat(file.fileno()).st_size) < least:
            raise ValueError(
                f"{path} is truncated or corrupted: {n_draws} draws of {n_columns} numbers do not "
                f"fit in its {size} bytes"
            )
        table = np.empty((n_draws, n_columns))
        for rows in _chunks(path, file, n_columns, n_draws, comments):
            table[filled : filled + len(rows)] = _numbers(path, rows, n_columns)
            filled += len(rows)
    variables, method_variables = {}, {}
    for name, variable in stanio.parse_header(header).items():
        columns = table[:, variable.start_idx : variable.end_idx]
        shape = tuple(variable.dimensions)
        # Stan's first index runs fastest: reshape with reversed axes, then reverse them.
        values = columns.reshape(n_draws, *shape[::-1]).transpose(0, *range(len(shape), 0, -1))
        if name.endswith("__"):
            method_variables[name.removesuffix("__")] = values
        else:
            variables[name] = values
    said = b"".join(comments)
    time = re.search(rb"([\d.]+) seconds \((?:Total|Pathfinder)\)", said)
    seconds = float(time[1]) if time else float("nan")
    return Draws(variables, method_variables, seconds, NOT_CONVERGED.encode() not in said)


def check_csv(path: Path, n_draws: int) -> None:
    """Check that a Stan CSV file is complete, without parsing its numbers.

    Parameters
    ----------
    path : pathlib.Path
    n_draws : int
        Required number of rows.

    Raises
    ------
    ValueError
        If the number of rows is not ``n_draws``, or if a row does not have one number per name.
    """
    with _open(path) as file:
        n_columns = _header(path, file).count(",") + 1
        for _ in _chunks(path, file, n_columns, n_draws, []):
            pass


def write_csv(path: Path, variables: Mapping[str, np.ndarray]) -> None:
    """Write draws as a Stan CSV file, atomically and without loss of precision.

    Parameters
    ----------
    path : pathlib.Path
    variables : mapping of str to ndarray
        Each ``(draw, *stan_shape)``.
    """
    names, columns = [], []
    for name, values in variables.items():
        for index in np.ndindex(values.shape[:0:-1]):  # the first index runs fastest
            names.append(".".join([name, *(str(i + 1) for i in reversed(index))]))
        columns.append(values.reshape(len(values), -1, order="F"))
    table = np.concatenate(columns, axis=1)
    header = ",".join(names)
    with replacing(path) as partial, open(partial, "w", encoding="utf-8") as file:
        np.savetxt(file, table, fmt="%.17g", delimiter=",", header=header, comments="")


def _open(path):
    try:
        return open(path, "rb")
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error}") from None


def _header(path, file):
    """The line with the column names."""
    for line in file:
        if not line.startswith(b"#"):
            return line.strip().decode(errors="replace")
    raise ValueError(f"{path} is truncated: it has no line with column names")


def _chunks(path, file, n_columns, n_draws, comments):
    """Yield lists of lines with numbers; comments on how the program ended go to ``comments``."""
    rows, n_bytes, n_rows = [], 0, 0
    for line in file:
        if line.startswith(b"#"):
            if b" seconds " in line or NOT_CONVERGED.encode() in line:
                comments.append(line)
            continue
        n_rows += 1
        if n_rows > n_draws:
            break
        n_found = line.count(b",") + 1
        if n_found != n_columns or not line.endswith(b"\n"):
            raise ValueError(
                f"{path} is truncated or corrupted: row {n_rows} must have {n_columns} numbers "
                f"and a line end, got {n_found} numbers"
            )
        rows.append(line)
        n_bytes += len(line)
        if n_bytes > CHUNK_BYTES:
            yield rows
            rows, n_bytes = [], 0
    if n_rows != n_draws:
        raise ValueError(
            f"{path} is truncated or corrupted: it must have {n_draws} draws, got "
            f"{'more' if n_rows > n_draws else n_rows}"
        )
    if rows:
        yield rows


def _numbers(path, rows, n_columns):
    """Parse lines of numbers.

    The lines are parsed by pandas as one long column: its parser is three times as fast as
    numpy's, but slow with tens of thousands of columns. Lines that it cannot parse, such as those
    with "nan", are parsed by numpy, whose error messages locate the fault.
    """
    column = b"".join(rows).replace(b"\n", b",")
    options = {"header": None, "dtype": np.float64, "lineterminator": ",", "sep": ";"}
    fast = {"quoting": 3, "na_filter": False, "low_memory": False}
    try:
        frame = pd.read_csv(io.BytesIO(column), **options, **fast, **_EXACT)
        return frame.to_numpy().reshape(len(rows), n_columns)
    except ValueError:  # pandas' own errors are ValueErrors
        pass
    try:
        return np.loadtxt(rows, delimiter=",", ndmin=2)
    except ValueError as error:
        raise ValueError(f"{path} is corrupted: {error}") from None
