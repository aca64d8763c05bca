"""The files of a Markov chain: one, and another for each time that the run was continued."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import NamedTuple


class Part(NamedTuple):
    """The draws of one chain that are in one file.

    Attributes
    ----------
    after : int
        Sampling iterations of the chain before these.
    n_iterations : int
    n_draws : int
        Of these iterations, those that are kept.
    """

    after: int
    n_iterations: int
    n_draws: int


class File(NamedTuple):
    """A CSV file and the number of its draws."""

    path: Path
    n_draws: int


def parts_of(settings: dict) -> list[Part]:
    """The parts of each chain, one unless the run was continued.

    Parameters
    ----------
    settings : dict
        Of ``config.json``; ``continued_after`` has the numbers of sampling iterations after which
        it was.

    Returns
    -------
    list of Part

    Raises
    ------
    ValueError
        If these numbers do not rise, or are not multiples of ``thin``.

    Examples
    --------
    >>> first, second = parts_of({"iter_sampling": 2000, "continued_after": [500], "thin": 10})
    >>> first
    Part(after=0, n_iterations=500, n_draws=50)
    >>> second
    Part(after=500, n_iterations=1500, n_draws=150)
    """
    bounds = [0, *settings.get("continued_after", []), settings["iter_sampling"]]
    if any(a >= b for a, b in pairwise(bounds)):
        raise ValueError(f"continued_after must rise to iter_sampling, got {bounds[1:]}")
    thin = settings.get("thin", 1)
    if any(b % thin for b in bounds):
        raise ValueError(f"thin must divide iter_sampling, got {thin} and {bounds[1:]}")
    return [Part(a, b - a, (b - a) // thin) for a, b in pairwise(bounds)]


def label_of(chain: int, part: Part) -> str:
    """The name of a part of a chain.

    Parameters
    ----------
    chain : int
        Number of the chain, from 1.
    part : Part

    Returns
    -------
    str
        Used in messages and, with hyphens, as the name of its file.
    """
    return f"chain {chain} after {part.after}" if part.after else f"chain {chain}"


def csv_of(folder: Path, chain: int, part: Part) -> Path:
    """The CSV file of a part of a chain in a run directory."""
    return folder / "csv" / f"{label_of(chain, part).replace(' ', '-')}.csv"


def warm_up_of(folder: Path, chain: int) -> Path:
    """The CSV file of a warm-up that was a unit of its own, in a run directory."""
    return folder / "init" / f"warm-up-{chain}.csv"


def files_of(folder: Path, chain: int, settings: dict) -> list[File]:
    """List the CSV files of a chain.

    Parameters
    ----------
    folder : pathlib.Path
        A run directory.
    chain : int
        Number of the chain, from 1.
    settings : dict
        As for `parts_of`.

    Returns
    -------
    list of File
    """
    return [File(csv_of(folder, chain, part), part.n_draws) for part in parts_of(settings)]
