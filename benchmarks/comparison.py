"""Timing two things in turn, so that whatever else the machine does hits both alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass
class Comparison:
    """The time of one thing over that of another, in many rounds.

    Attributes:
        name: What was measured.
        ratio: Median over the rounds of time / reference time.
        low: First quartile of the same.
        high: Third quartile.
        limit: What the ratio should not exceed, or None where it is only reported.
        note: What the limit is.
    """

    name: str
    ratio: float
    low: float
    high: float
    limit: float | None
    note: str

    @property
    def met(self) -> bool:
        """Whether the ratio is within the limit."""
        return self.limit is None or self.ratio <= self.limit


def compare(
    name: str,
    candidate: Callable[[], object],
    reference: Callable[[], object],
    rounds: int,
    limit: float | None = None,
    note: str = "",
    divide_by: float = 1.0,
) -> Comparison:
    """Time both in turn, ``rounds`` times, each first in every other round.

    Args:
        name: What is measured.
        candidate: Called without arguments, as is ``reference``.
        reference: What to compare with.
        rounds: How often.
        limit: See `Comparison`.
        note: See `Comparison`.
        divide_by: The ratio is divided by this (such as the ratio of the arithmetic).
    """
    for _ in range(2):
        candidate()
        reference()
    ratios = []
    for number in range(rounds):
        pair = [candidate, reference] if number % 2 else [reference, candidate]
        seconds = [_seconds(function) for function in pair]
        ours, theirs = seconds if number % 2 else reversed(seconds)
        ratios.append(ours / theirs / divide_by)
    low, middle, high = statistics.quantiles(ratios, n=4)
    return Comparison(name, middle, low, high, limit, note)


def _seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start
