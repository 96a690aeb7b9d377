"""A forward pass in several cycles: its options, its result, and the input of each later cycle."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor, nn

from cycledistill._output import CycleOutput
from cycledistill._setup import Setup
from cycledistill._teacher import TeacherOnly
from cycledistill._tokens import normed


class RunResult(NamedTuple):
    """The result of a run.

    Attributes:
        output: Predictions and tokens.
        cycles_run: Number of cycles of the sample that ran longest.
        sample_cycles: Number of cycles of each sample, `[B]`, with early exit.
    """

    output: CycleOutput
    cycles_run: int
    sample_cycles: Tensor | None = None


@dataclass(eq=False)
class CycleRun:
    """A forward pass in several cycles.

    Attributes:
        setup: The wrapper's setup.
        plain: The model.
        teacher: Parameters of the later cycles, or None.
        num_cycles: Number of cycles.
        exit_tolerance: A sample stops once its tokens change by less than this part of their norm.
        keep_all: Whether to return all cycles' predictions and tokens, or only the last one's.
    """

    setup: Setup
    plain: nn.Module
    teacher: TeacherOnly | None
    num_cycles: int
    exit_tolerance: float | None = None
    keep_all: bool = True

    def next_input(self, previous: Tensor, first: Tensor, cycle: int) -> Tensor:
        """The input tokens of a later cycle.

        Args:
            previous: Output tokens of the previous cycle.
            first: Input tokens of the first cycle.
            cycle: Number of the cycle, 2 or more.
        """
        setup = self.setup
        if setup.grad_cycles is not None and (cycle - 1) % setup.grad_cycles == 0:
            previous = previous.detach()
        like = first if setup.cycle_norm == "input" else None
        if first.shape != previous.shape and (setup.input_injection or like is not None):
            option = "input_injection" if setup.input_injection else "cycle_norm='input'"
            raise ValueError(
                f"{option} combines the stack's input {list(first.shape)} with later cycles' "
                f"tokens {list(previous.shape)}: expected equal shapes (the stack must not prune)"
            )
        if setup.cycle_norm is not None:
            previous = normed(previous, like)
        if setup.input_injection:
            previous = previous + setup.input_injection * first
        return previous if self.teacher is None else self.teacher.embed(previous, cycle)
