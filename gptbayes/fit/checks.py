"""Checks of arguments."""

from __future__ import annotations

from collections.abc import Sequence


def check_one_of(name: str, value: object, valid: Sequence[object]) -> None:
    """Raise a ValueError that lists the valid values if ``value`` is not one of them."""
    if value not in valid:
        raise ValueError(f"{name} must be one of {', '.join(map(str, valid))}, got {value!r}")


def check_positive(**values: object) -> None:
    """Raise a ValueError if one of the named values is not a positive integer."""
    for name, value in values.items():
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be a positive integer, got {value!r}")
