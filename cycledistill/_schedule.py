"""Weights and numbers of cycles that change during training."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from cycledistill._checks import check_choice, check_span

Weight: TypeAlias = float | Callable[[float], float]
"""A number, or a function of the training progress (0 at the start, 1 at the end)."""


@dataclass(frozen=True)
class Ramp:
    """A weight that changes from one value to another between two points of training.

    >>> ramp = Ramp(0.0, 2.0, begin=0.25, end=0.75)
    >>> [ramp(progress) for progress in (0.0, 0.25, 0.5, 0.75, 1.0)]
    [0.0, 0.0, 1.0, 2.0, 2.0]

    Args:
        initial: Value before ``begin``.
        final: Value after ``end``.
        begin: Progress in [0, 1] at which the change starts.
        end: Progress in [0, 1] at which it ends.
        shape: ``"linear"`` or ``"cosine"`` (slow at both ends).

    Raises:
        ValueError: ``begin`` and ``end`` are out of order or range, or the shape is unknown.
    """

    initial: float
    final: float
    begin: float = 0.0
    end: float = 1.0
    shape: str = "linear"

    def __post_init__(self) -> None:
        check_span(begin=self.begin, end=self.end)
        check_choice("shape", self.shape, "linear", "cosine")

    def __call__(self, progress: float) -> float:
        """The weight at a training progress in [0, 1]."""
        if progress <= self.begin:
            part = 0.0
        elif progress >= self.end:
            part = 1.0
        else:
            part = (progress - self.begin) / (self.end - self.begin)
        if self.shape == "cosine":
            part = (1 - math.cos(math.pi * part)) / 2
        return self.initial + (self.final - self.initial) * part


def weight_at(weight: Weight, progress: float) -> float:
    """The value of a weight at a training progress in [0, 1]."""
    return float(weight(progress)) if callable(weight) else float(weight)


def cycles_at(num_cycles: int, cycles_from: float, cycles_until: float, progress: float) -> int:
    """The number of cycles at a training progress: from 1 up to N, and back to 1.

    >>> [cycles_at(3, 0.4, 0.8, progress) for progress in (0.0, 0.1, 0.2, 0.4, 0.79, 0.8, 1.0)]
    [1, 1, 2, 3, 3, 1, 1]

    Args:
        num_cycles: Number of cycles N.
        cycles_from: Progress from which all N run; before it, their number rises in equal steps.
        cycles_until: Progress from which only one runs; with 1, all N run to the end.
        progress: Training progress in [0, 1].
    """
    if progress >= cycles_until and cycles_until < 1:
        return 1
    if progress >= cycles_from:
        return num_cycles
    return 1 + int((num_cycles - 1) * progress / cycles_from)


def warn_of_no_progress(what: str) -> None:
    """Warn that a schedule stays at its start."""
    warnings.warn(
        f"{what}: the schedule stays at its start, because set_progress was never called. Call "
        "set_progress(step / total_steps) before every step",
        UserWarning,
        stacklevel=4,
    )
