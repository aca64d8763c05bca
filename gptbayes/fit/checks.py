"""Checks of arguments."""

from __future__ import annotations

from collections.abc import Sequence

from gptbayes.corpus import whole_number
from gptbayes.fit import schema


def check_one_of(name: str, value: object, valid: Sequence[object]) -> None:
    """Check that a value is one of the valid ones.

    Parameters
    ----------
    name : str
        Used in the error message.
    value : object
    valid : sequence of object

    Raises
    ------
    ValueError
        If it is not; the message lists the valid values.
    """
    if value not in valid:
        raise ValueError(f"{name} must be one of {', '.join(map(str, valid))}, got {value!r}")


MOST = {
    "chains": schema.MOST_UNITS,
    "superchains": schema.MOST_UNITS,
    "paths": schema.MOST_UNITS,
    "starts": schema.MOST_UNITS,
    "replicates": schema.MOST_UNITS,
    "iter_warmup": 1_000_000,
    "iter_sampling": schema.MOST_DRAWS,
    "thin": schema.MOST_DRAWS,
    "draws": schema.MOST_DRAWS,
    "moves": 1_000_000,
    "max_iterations": schema.MOST_DRAWS,
    "max_lbfgs_iters": schema.MOST_DRAWS,
    "max_levels": 100_000,
    "max_treedepth": schema.MOST_TREEDEPTH,
}
"""The largest values of settings. Larger fits could not be finished."""


def positive(**values: object) -> list[int]:
    """Convert settings to Python integers.

    Parameters
    ----------
    **values
        By the names of `MOST`.

    Returns
    -------
    list of int
        In the given order.

    Raises
    ------
    ValueError
        If one is not a positive integer, or above its bound.
    """
    return [whole_number(name, value, most=MOST[name]) for name, value in values.items()]


def chosen(only: str | None, word: str, count: int) -> list[int]:
    """Numbers of the units to run, counted from 1: all, or the one that is named.

    Raises
    ------
    ValueError
        If there is none of that name.

    Examples
    --------
    >>> chosen(None, "chain", 3), chosen("chain-2", "chain", 3)
    ([1, 2, 3], [2])
    """
    numbers = [k for k in range(1, count + 1) if only in (None, f"{word}-{k}")]
    if not numbers:
        raise ValueError(f"only must be {word}-1 to {word}-{count}, got {only!r}")
    return numbers
