"""Checks of arguments."""

from __future__ import annotations

from collections.abc import Sequence

from gptbayes.corpus import whole_number


def check_one_of(name: str, value: object, valid: Sequence[object]) -> None:
    """Raise a ValueError that lists the valid values if ``value`` is not one of them."""
    if value not in valid:
        raise ValueError(f"{name} must be one of {', '.join(map(str, valid))}, got {value!r}")


def positive(**values: object) -> list[int]:
    """The named values as Python integers; raise a ValueError if one is not a positive integer."""
    return [whole_number(name, value) for name, value in values.items()]
