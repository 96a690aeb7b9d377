"""A computation in a process of its own: its memory, and how it gets it, are nobody else's."""

from __future__ import annotations

import contextlib
import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks import comparison

Build = Callable[..., Callable[..., Any]]


class Apart:
    """Builds a function in a fresh process and calls it there, as often as asked.

    Args:
        build: A function of a module, called as ``build(*args)`` in the new process; returns the
            function to call.
        *args: Plain values.
    """

    def __init__(self, build: Build, *args: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        settings = torch.get_num_threads(), comparison.chosen_clock
        self._process = context.Process(
            target=_serve, args=(theirs, settings, build, args), daemon=True
        )
        self._process.start()
        theirs.close()

    def __call__(self, *args: Any) -> tuple[float, Any]:
        """Seconds that the call took there, and what it returned."""
        self.send(*args)
        return self.receive()

    def send(self, *args: Any) -> None:
        """Begin a call, for several processes at once; `receive` waits for its end."""
        self._pipe.send(args)

    def receive(self) -> tuple[float, Any]:
        """Seconds that the call took, and what it returned."""
        seconds, result = self._pipe.recv()
        return seconds, result

    def close(self) -> None:
        """End the process."""
        self._pipe.close()
        self._process.join()

    def __enter__(self) -> Apart:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def resident_mib(name: str) -> float | None:
    """``VmRSS`` (now) or ``VmHWM`` (highest so far) of this process in MiB; None where unknown."""
    file = Path("/proc/self/status")
    if file.exists():
        for line in file.read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) / 1024
    return None


def _serve(pipe: Any, settings: tuple[int, str], build: Build, args: tuple[Any, ...]) -> None:
    torch.set_num_threads(settings[0])
    comparison.choose_clock(settings[1])
    function = build(*args)
    with contextlib.suppress(EOFError):  # the other end was closed: there is no more to do
        while True:
            given = pipe.recv()
            result: list[Any] = []
            seconds = comparison.seconds(lambda: result.append(function(*given)))  # noqa: B023
            pipe.send((seconds, result[0]))
