"""JSON files, and the integers and numbers in them, as different tools write them."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.floating[Any]]

_INTEGER = re.compile(r"\s*[+-]?[0-9]+\s*")


def load_json(source: Any, title: str) -> tuple[Any, str]:
    """The content of a JSON file, or the object itself, and a name for messages.

    UTF-8, UTF-16 and UTF-32 are read, with and without a byte order mark.
    """
    if not isinstance(source, str | os.PathLike):
        return source, f"the {title} given"
    path = Path(source)
    if not path.is_file():
        raise FileNotFoundError(f"{title}: there is no file {path}")
    try:
        return json.loads(path.read_bytes()), str(path)
    except ValueError as error:
        raise ValueError(f"{title}: {path} is not a JSON file ({error})") from error


def as_integer(value: Any, what: str) -> int:
    """5 of 5, 5.0 or "5"."""
    if type(value) is int and abs(value) < 2**63:
        return value
    whole = isinstance(value, float | np.floating) and float(value).is_integer()
    if whole or (isinstance(value, str) and _INTEGER.fullmatch(value)):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or abs(value) >= 2**63:
        raise ValueError(f"{what}: expected integers, got {value!r}")
    return int(value)


def as_numbers(values: Any, what: str, finite: bool = True) -> FloatArray:
    """A flat array `[N]` from a list of numbers, or of text that holds numbers."""
    try:
        if not isinstance(values, list | tuple | np.ndarray):
            raise TypeError
        numbers = np.asarray(values, dtype=np.float64).reshape(-1)
    except (TypeError, ValueError):
        raise ValueError(f"{what}: expected a list of numbers, got {_shortened(values)}") from None
    if finite and not np.isfinite(numbers).all():
        raise ValueError(f"{what}: expected finite numbers, got {_shortened(values)}")
    return numbers


def as_number(value: Any, what: str) -> float:
    """A finite number."""
    numbers = as_numbers([value], what)
    if len(numbers) != 1:
        raise ValueError(f"{what}: expected a number, got {_shortened(value)}")
    return float(numbers[0])


def as_box(values: Any, what: str, finite: bool = True) -> FloatArray:
    """`[4]` x, y, width and height; NaN where there is none."""
    box = as_numbers([] if values is None else values, what, finite)
    if len(box) not in (0, 4):
        raise ValueError(f"{what}: expected 4 numbers (x, y, width, height), got {box.tolist()}")
    return box if len(box) else np.full(4, np.nan)


def as_list(content: Any, key: str, title: str) -> list[Any]:
    """The objects under a key; an empty list if it is missing or null."""
    entries = content.get(key)
    entries = [] if entries is None else entries
    if not isinstance(entries, Sequence) or not all(hasattr(entry, "get") for entry in entries):
        raise ValueError(f"{title}: {key!r}: expected a list of objects, got {_shortened(entries)}")
    return list(entries)


def _shortened(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
