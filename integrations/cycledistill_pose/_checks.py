"""Checks of shapes and sizes, for all of the package."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

from cycledistill._checks import check_count


def check_shape(name: str, value: Any, axes: str, **sizes: int) -> dict[str, int]:
    """Check the shape of a tensor or an array.

    >>> import torch
    >>> check_shape("keypoints", torch.zeros(4, 17, 2), "B K 2")
    {'B': 4, 'K': 17}
    >>> check_shape("visible", torch.zeros(4, 14), "B K", K=17)
    Traceback (most recent call last):
      ...
    ValueError: visible: expected [B, K] with K = 17, got [4, 14]

    Args:
        name: The argument's name.
        value: Its value.
        axes: A number or a letter for each axis.
        **sizes: Sizes of letters; other letters may have any size.

    Returns:
        The size of each letter, so that the next argument can be compared with this one.

    Raises:
        ValueError: It has another shape.
    """
    named, shape = axes.split(), list(value.shape)
    fits = len(named) == len(shape)
    found = dict(sizes)
    for axis, size in zip(named, shape, strict=False):
        expected = int(axis) if axis.isdigit() else sizes.get(axis)
        fits = fits and (expected is None or size == expected)
        if not axis.isdigit():
            found[axis] = size
    if not fits:
        known = ", ".join(f"{axis} = {size}" for axis, size in sizes.items() if axis in named)
        known = f" with {known}" if known else ""
        raise ValueError(f"{name}: expected [{', '.join(named)}]{known}, got {shape}")
    return found


def check_pair(name: str, value: Sequence[int]) -> tuple[int, int]:
    """Return two sizes in px or cells as a tuple.

    Raises:
        ValueError: They are not two positive integers.
    """
    try:
        first, second = map(operator.index, value)
    except (TypeError, ValueError):
        raise ValueError(f"{name}: expected two integers, got {value!r}") from None
    check_count(name, first)
    check_count(name, second)
    return first, second
