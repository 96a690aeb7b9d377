"""What all benchmarks share: rows, one clock, calls timed in turn, and calls in other processes."""

from __future__ import annotations

import datetime
import multiprocessing
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

# "cpu" counts what this process computes: for one thread on a machine with other work, where the
# wall's clock also counts other programs' turns.
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
_chosen = "wall"


class NoDataError(Exception):
    """A benchmark needs data that is not there."""


@dataclass(frozen=True)
class Row:
    """A line of the table: a ratio, or a quantity with its unit.

    Attributes:
        name: What was measured.
        value: Median over the rounds.
        low: First quartile.
        high: Third quartile.
        unit: Of all three; empty for a ratio.
        target: What the value should not exceed (or fall below); None where it is only reported.
        at_least: Whether the target is the least that the value should be.
    """

    name: str
    value: float
    low: float
    high: float
    unit: str = ""
    target: float | None = None
    at_least: bool = False

    @classmethod
    def of(cls, name: str, values: Sequence[float], *args: Any, **about: Any) -> Row:
        """The median and the quartiles of one value or more; see the attributes for the rest."""
        low, middle, high = statistics.quantiles([*values] * (1 + (len(values) == 1)), n=4)
        return cls(name, middle, low, high, *args, **about)

    @property
    def met(self) -> bool | None:
        """Whether the value is on the right side of the target; None where there is none."""
        if self.target is None:
            return None
        return self.value >= self.target if self.at_least else self.value <= self.target

    def __str__(self) -> str:
        target = "" if self.target is None else f"{'>=' if self.at_least else '<='} {self.target:g}"
        met = {None: "", True: ", yes", False: ", no"}[self.met]
        values = f"{self.value:.4g} ({self.low:.4g} - {self.high:.4g}) {self.unit}".strip()
        return f"{values:40}  {target + met:12}  {self.name}"


def choose_clock(name: str) -> None:
    """Measure by one of `CLOCKS` from now on."""
    global _chosen
    _chosen = name


def seconds(function: Callable[[], object], clock: str | None = None) -> float:
    """How long a call takes by the chosen clock or a given one, until the GPU has done it."""
    now = CLOCKS[clock or _chosen]
    _wait()
    start = now()
    function()
    _wait()
    return now() - start


def in_turn(
    calls: Mapping[str, Callable[[], Any]],
    rounds: int,
    timed: Callable[[Callable[[], Any]], float] = seconds,
) -> dict[str, list[float]]:
    """Seconds of each call in each round.

    All calls run in every round, in the reverse order in every other one, so that whatever else
    the machine does hits them alike. A round before the first is not counted.
    """
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(-1, rounds):
        for name in list(calls) if number % 2 else list(reversed(calls)):
            spent = timed(calls[name])
            if number >= 0:
                taken[name].append(spent)
    return taken


def ratio(one: Sequence[float], other: Sequence[float], times: float = 1.0) -> list[float]:
    """``times * one / other`` of each round."""
    return [times * a / b for a, b in zip(one, other, strict=True)]


class Apart:
    """A function in a process of its own, whose memory is nobody else's.

    Args:
        build: A function of a module, called as ``build(*args)`` in the new process; returns the
            function to call.
        *args: Plain values.
    """

    def __init__(self, build: Callable[..., Callable[..., Any]], *args: Any) -> None:
        settings = (torch.get_num_threads(), _chosen, build, args)
        context = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(1, context, _begin, settings)

    def __call__(self, *args: Any) -> tuple[float, Any]:
        """Seconds that the call took there, and what it returned."""
        return self._pool.submit(_call, args).result()

    def __enter__(self) -> Apart:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()


def machine(threads: int) -> dict[str, Any]:
    """Date, hardware and versions, for a record."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return {
        "date": datetime.date.today().isoformat(),
        "machine": {
            "processor": models[0] if models else platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
            "threads": threads,
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
    }


_function: Callable[..., Any]


def _begin(threads: int, clock: str, build: Callable[..., Any], args: tuple[Any, ...]) -> None:
    global _function
    torch.set_num_threads(threads)
    choose_clock(clock)
    _function = build(*args)


def _call(args: tuple[Any, ...]) -> tuple[float, Any]:
    result: list[Any] = []
    return seconds(lambda: result.append(_function(*args))), result[0]


def _wait() -> None:
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
