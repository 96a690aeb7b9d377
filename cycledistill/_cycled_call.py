"""A call of the model in several cycles: what it is asked for, and what comes of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor, nn

from cycledistill._exit import EarlyExit
from cycledistill._output import CycleOutput
from cycledistill._setup import Setup
from cycledistill._teacher import TeacherOnly
from cycledistill._tokens import normed


class Cycled(NamedTuple):
    """What came of a call.

    Attributes:
        output: Predictions and tokens.
        cycles_run: Cycles of the sample that ran longest.
        sample_cycles: Cycles of each sample, `[B]`, with early exit.
    """

    output: CycleOutput
    cycles_run: int
    sample_cycles: Tensor | None = None


@dataclass(eq=False)
class CycledCall:
    """A call in several cycles.

    Attributes:
        setup: Of the wrapper.
        plain: The model.
        teacher: Parameters of the later cycles, or None.
        num_cycles: Cycles asked for.
        exit_tolerance: A sample stops once its tokens change by less than this part of their norm.
        keep_all: Whether all cycles' predictions and tokens are wanted, or the last one's alone.
    """

    setup: Setup
    plain: nn.Module
    teacher: TeacherOnly | None
    num_cycles: int
    exit_tolerance: float | None = None
    keep_all: bool = True

    def entering(self, left: Tensor, first: Tensor, cycle: int) -> Tensor:
        """What enters a later cycle.

        Args:
            left: Tokens that left the cycle before.
            first: Tokens that entered the first cycle.
            cycle: The cycle that is entered, 2 or more.
        """
        setup = self.setup
        if setup.grad_cycles is not None and (cycle - 1) % setup.grad_cycles == 0:
            left = left.detach()
        like = first if setup.cycle_norm == "input" else None
        if first.shape != left.shape and (setup.input_injection or like is not None):
            option = "input_injection" if setup.input_injection else "cycle_norm='input'"
            raise ValueError(
                f"{option} combines the stack's input {list(first.shape)} with later cycles' "
                f"tokens {list(left.shape)}: the shapes must be equal (a pruned stack cannot)"
            )
        if setup.cycle_norm is not None:
            left = normed(left, like)
        if setup.input_injection:
            left = left + setup.input_injection * first
        return left if self.teacher is None else self.teacher.enter(left, cycle)

    def begin_exit(self, tokens: Tensor, inputs: Any, first_is_batch: bool) -> EarlyExit:
        """Early exit, from the first cycle's tokens on; see `EarlyExit`."""
        assert self.exit_tolerance is not None
        return EarlyExit(self.exit_tolerance, tokens, self.setup.batch_dim, inputs, first_is_batch)
