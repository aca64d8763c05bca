"""The files of a chain of NUTS: one, and another for each time that the run was continued."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import NamedTuple


class Part(NamedTuple):
    """The draws of one chain that are in one file.

    Attributes
    ----------
    after : int
        Draws of the chain before these.
    n_draws : int
    """

    after: int
    n_draws: int


def parts_of(settings: dict) -> list[Part]:
    """The parts of each chain of NUTS, one unless the run was continued.

    Parameters
    ----------
    settings : dict
        Of ``config.json``; ``continued_after`` has the numbers of draws after which it was.

    Returns
    -------
    list of Part

    Raises
    ------
    ValueError
        If these numbers do not rise.

    Examples
    --------
    >>> parts_of({"iter_sampling": 2000, "continued_after": [500, 1000]})
    [Part(after=0, n_draws=500), Part(after=500, n_draws=500), Part(after=1000, n_draws=1000)]
    """
    bounds = [0, *settings.get("continued_after", []), settings["iter_sampling"]]
    if any(a >= b for a, b in pairwise(bounds)):
        raise ValueError(f"continued_after must rise to iter_sampling, got {bounds[1:]}")
    return [Part(a, b - a) for a, b in pairwise(bounds)]


def label_of(chain: int, part: Part) -> str:
    """Name of a part of a chain, counted from 1, in progress and, with hyphens, of its file."""
    return f"chain {chain} after {part.after}" if part.after else f"chain {chain}"


def files_of(folder: Path, chain: int, settings: dict) -> list[tuple[Path, int]]:
    """The CSV files of a chain, counted from 1, with the number of their draws."""
    return [
        (folder / "csv" / f"{label_of(chain, part).replace(' ', '-')}.csv", part.n_draws)
        for part in parts_of(settings)
    ]
