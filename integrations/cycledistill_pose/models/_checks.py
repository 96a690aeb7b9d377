"""Checks of numbers that users give."""

from __future__ import annotations

from collections.abc import Sequence


def positive_integer(name: str, value: int) -> int:
    """Return `value`.

    Raises:
        ValueError: It is not an integer of 1 or more.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be an integer of 1 or more, got {value!r}")
    return value


def integer_pair(name: str, value: Sequence[int]) -> tuple[int, int]:
    """Return `value` as a tuple.

    Raises:
        ValueError: It is not two integers of 1 or more.
    """
    if isinstance(value, (int, str)) or len(value) != 2:
        raise ValueError(f"{name} must be two integers, got {value!r}")
    first, second = value
    return positive_integer(name, first), positive_integer(name, second)
