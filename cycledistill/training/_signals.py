"""Stopping when asked: at the end of the step, with a checkpoint."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Any

from cycledistill.training._errors import Interrupted


class StopRequest:
    """Listens for Ctrl-C and SIGTERM while it is entered.

    The first one is kept in ``signal``, for the loop to look at after each step; a second one ends
    the process at once. Inside ``interruptible()`` the first one already raises ``Interrupted``.
    With several processes repeated signals are ignored: launchers pass on what the terminal has
    sent to everyone already.
    """

    def __init__(self, num_processes: int) -> None:
        self.signal = 0
        self._alone = num_processes == 1
        self._may_raise = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # A launcher's signal may reach this process when another one has stopped all of them.
        ending = not self._alone and kind is not None and issubclass(kind, Interrupted)
        for number, handler in self._previous.items():
            signal.signal(number, signal.SIG_IGN if ending else handler)

    @contextlib.contextmanager
    def interruptible(self) -> Iterator[None]:
        """A block (an evaluation) that can be left at any time."""
        self._may_raise = True
        try:
            yield
        finally:
            self._may_raise = False

    def _receive(self, number: int, frame: FrameType | None) -> None:
        leave_now = self._alone and (self.signal or self._may_raise)
        self.signal = self.signal or number
        if leave_now:
            raise Interrupted(128 + number)
