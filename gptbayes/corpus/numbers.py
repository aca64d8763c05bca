"""Numbers of a user: each is used as it is given, or refused by name."""

from __future__ import annotations

import math
import operator

import numpy as np

MOST = 2**31 - 1
"""The largest integer of Stan, and the default bound of counts."""


def whole_number(name: str, value, *, least: int = 1, most: int = MOST) -> int:
    """Convert a count or a size of any integer type to a Python integer.

    Parameters
    ----------
    name : str
        Used in the error message.
    value : int or NumPy integer
    least, most : int
        Bounds, inclusive.

    Returns
    -------
    int

    Raises
    ------
    ValueError
        If the value is not an integer, less than ``least`` or more than ``most``. Booleans are
        refused.
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
    """Convert a finite number of any numeric type to a Python float.

    Parameters
    ----------
    name, wanted : str
        Used in the error message.
    value : float, int or NumPy scalar

    Returns
    -------
    float

    Raises
    ------
    ValueError
        If the value is not a number, or not finite.
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
