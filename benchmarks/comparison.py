"""Timing two things in turn, so that whatever else the machine does hits both alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

# "cpu" counts what this process alone computes: for one thread on a machine with other work, where
# the wall's clock also counts the others' turns.
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
chosen_clock = "wall"


@dataclass
class Comparison:
    """One thing over another: times in many rounds, or bytes counted once.

    Attributes:
        name: What was measured.
        ratio: Median over the rounds of candidate / reference, or of reference / candidate
            where the target is a speed-up.
        low: First quartile of the same.
        high: Third quartile.
        limit: What the ratio should not exceed (or fall below), or None where it is only reported.
        note: What the limit is.
        at_least: Whether the limit is the least that the ratio should be.
    """

    name: str
    ratio: float
    low: float
    high: float
    limit: float | None = None
    note: str = ""
    at_least: bool = False

    @property
    def met(self) -> bool:
        """Whether the ratio is on the right side of the limit."""
        if self.limit is None:
            return True
        return self.ratio >= self.limit if self.at_least else self.ratio <= self.limit

    @property
    def target(self) -> str:
        """The limit in words, empty where there is none."""
        if self.limit is None:
            return ""
        return f"{'>=' if self.at_least else '<='} {self.limit:.2f} x {self.note}"


@dataclass
class Figure:
    """One quantity in many rounds, where nothing is there to compare it with.

    Attributes:
        name: What was measured.
        value: Median over the rounds.
        low: First quartile.
        high: Third quartile.
        unit: Of all three.
    """

    name: str
    value: float
    low: float
    high: float
    unit: str


def compare(
    name: str,
    candidate: Callable[[], object],
    reference: Callable[[], object],
    rounds: int,
    limit: float | None = None,
    note: str = "",
    divide_by: float = 1.0,
    speed_up: bool = False,
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
        speed_up: The ratio is reference / candidate, and the limit the least it should be.
    """
    for _ in range(2):
        candidate()
        reference()
    ratios = []
    for number in range(rounds):
        pair = [candidate, reference] if number % 2 else [reference, candidate]
        taken = [seconds(function) for function in pair]
        ours, theirs = taken if number % 2 else reversed(taken)
        ratios.append((theirs / ours if speed_up else ours / theirs) / divide_by)
    low, middle, high = statistics.quantiles(ratios, n=4)
    return Comparison(name, middle, low, high, limit, note, at_least=speed_up)


def seconds(function: Callable[[], object]) -> float:
    """How long one call takes, by the clock that was chosen, and until the GPU has done it."""
    return _seconds(function, CLOCKS[chosen_clock])


def wall_seconds(function: Callable[[], object]) -> float:
    """The same by the wall's clock: what several processes do together can have no other."""
    return _seconds(function, CLOCKS["wall"])


def _seconds(function: Callable[[], object], clock: Callable[[], float]) -> float:
    wait()
    start = clock()
    function()
    wait()
    return clock() - start


def wait() -> None:
    """Wait for what a GPU still has to do."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def choose_clock(name: str) -> None:
    """Measure by one of `CLOCKS` from now on."""
    global chosen_clock
    chosen_clock = name
