"""Numbers of a user: each is used as it is given, or refused by name."""

from __future__ import annotations

import math
import operator

import numpy as np

MOST = 2**31 - 1
"""The largest integer of the Stan programs, and of every count that has no bound of its own."""


def whole_number(name: str, value, *, least: int = 1, most: int = MOST) -> int:
    """A count or a size as a Python integer, from any integer type.

    Parameters
    ----------
    name : str
        For the message.
    value : int or NumPy integer
    least, most : int

    Raises
    ------
    ValueError
        If it is not an integer, less than ``least`` or more than ``most``. Booleans are not
        integers here.
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool | np.bool_) or number < least:
        wanted = {0: "0 or a positive integer", 1: "a positive integer"}
        raise ValueError(
            f"{name} must be {wanted.get(least, f'an integer of at least {least}')}, got {value!r}"
        )
    if number > most:
        raise ValueError(f"{name} must be at most {most:,}, got {_short(number)}")
    return number


def real_number(name: str, value, wanted: str = "a finite number") -> float:
    """A finite number as a Python float, from any number type.

    Parameters
    ----------
    name : str
        For the message.
    value : float, int or NumPy scalar
    wanted : str
        For the message too.

    Raises
    ------
    ValueError
        If it is not a number, or not finite.
    """
    number = math.nan
    if not isinstance(value, str | bytes):
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            pass
    if not math.isfinite(number):
        raise ValueError(f"{name} must be {wanted}, got {value!r}")
    return number


def _short(number: int) -> str:
    """Digits of a number of any size."""
    return f"{number:,}" if number < 10**18 else f"about 10^{int(math.log10(number))}"
