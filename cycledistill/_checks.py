"""Checks of arguments that several objects take."""

from __future__ import annotations


def check_choice(name: str, value: object, *choices: object) -> None:
    """Check an argument that is one of a few values.

    Raises:
        ValueError: It is none of them.
    """
    if value not in choices:
        *others, last = map(repr, choices)
        raise ValueError(f"{name}: expected {', '.join(others)} or {last}, got {value!r}")


def check_callable(name: str, value: object) -> None:
    """Check an argument that is called.

    Raises:
        TypeError: It is not callable.
    """
    if not callable(value):
        raise TypeError(f"{name}: expected a callable, got {type(value).__name__}")


def check_count(name: str, value: object) -> None:
    """Check a positive whole number.

    Raises:
        ValueError: It is not one.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name}: expected a whole number of 1 or more, got {value!r}")


def check_span(**ends: float) -> None:
    """Check two fractions of training, the begin and the end of something.

    Raises:
        ValueError: They are not from 0 to 1, in this order.
    """
    (first, begin), (last, end) = ends.items()
    if not 0 <= begin <= end <= 1:
        raise ValueError(f"expected 0 <= {first} <= {last} <= 1, got {first}={begin}, {last}={end}")


def check_fraction(name: str, value: float) -> float:
    """Return a number within 0 and 1 as a float.

    Raises:
        ValueError: It is outside of them.
    """
    if not 0 <= value <= 1:
        raise ValueError(f"{name}: expected a number from 0 to 1, got {value}")
    return float(value)
