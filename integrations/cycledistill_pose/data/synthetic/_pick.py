"""Choosing at random, faster than NumPy does for a few options."""

from __future__ import annotations

from typing import TypeVar

import numpy as np

_T = TypeVar("_T")


def pick(rng: np.random.Generator, chances: dict[_T, float]) -> _T:
    """One of the keys, as often as its value says (of the sum of all)."""
    left = rng.random() * sum(chances.values())
    for key, chance in chances.items():
        left -= chance
        if left < 0:
            return key
    return next(reversed(chances))
