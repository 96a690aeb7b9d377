"""A forward pass in several cycles: its options, its result, and the loop over the cycles."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor, nn

from cycledistill._call import CallResult, CycleCall
from cycledistill._errors import (
    check_channels_last,
    check_tokens,
    raise_exit_failed,
    raise_shape_changed,
)
from cycledistill._exit import EarlyExit, ExitRule
from cycledistill._output import CycleOutput
from cycledistill._setup import Setup
from cycledistill._teacher import TeacherOnly
from cycledistill._tokens import normed


class RunResult(NamedTuple):
    """The result of a run.

    Attributes:
        output: Predictions and tokens.
        cycles_run: Number of cycles of the sample that ran longest.
        pruned: Whether the blocks removed tokens in the first cycle.
        sample_cycles: Number of cycles of each sample, `[B]`, with early exit.
    """

    output: CycleOutput
    cycles_run: int
    pruned: bool
    sample_cycles: Tensor | None = None


@dataclass(eq=False)
class CycleRun:
    """A forward pass in several cycles.

    Attributes:
        setup: The wrapper's setup.
        plain: The model.
        teacher: Parameters of the later cycles, or None.
        num_cycles: Number of cycles.
        exit_rule: When a sample stops early, or None.
        keep_all: Whether to return all cycles' predictions and tokens, or only the last one's.
        in_backward: Called when a backward pass reaches a cycle, whose blocks may then run again.
        may_skip: Whether a call may run none of the blocks, as in generation those do that find the
            encoder's output in a cache. Such calls have no tokens.
    """

    setup: Setup
    plain: nn.Module
    teacher: TeacherOnly | None
    num_cycles: int
    exit_rule: ExitRule | None = None
    keep_all: bool = True
    in_backward: Callable[..., None] | None = None
    may_skip: bool = False

    def __post_init__(self) -> None:
        options = ("gate", "cycle_embedding", "adapter_rank")
        wanted = [name for name in options if getattr(self.setup, name)]
        if wanted and self.teacher is None and self.num_cycles > 1:
            raise ValueError(
                f"{', '.join(wanted)}: {self.setup.model} was wrapped with num_cycles=1, and so "
                f"without parameters of later cycles, and this call has {self.num_cycles}: "
                "expected the largest number of cycles when it is wrapped"
            )

    def run_cycles(
        self, run_cycle: Callable[[CycleCall, Any], CallResult], inputs: Any, of_model: bool
    ) -> RunResult:
        """Run the cycles one after another, until all have run or all samples have stopped.

        Args:
            run_cycle: Runs one cycle, given the call and the inputs of the active samples.
            inputs: What goes into every cycle, besides the tokens: a tree of tensors.
            of_model: Whether these are the model's own inputs, the first of which has a batch.
        """
        predictions: list[Any] = []
        tokens: list[Tensor] = []
        early_exit: EarlyExit | None = None
        first = previous = new_tokens = None
        pruned = False
        connected = self.setup.grad_cycles or self.num_cycles
        for cycle in range(1, self.num_cycles + 1):
            if previous is not None and first is not None:
                if (cycle - 1) % connected == 0:
                    previous = previous.detach()
                new_tokens = self.next_input(previous, first, cycle)
            active = inputs if early_exit is None else early_exit.inputs()
            try:
                done = run_cycle(CycleCall(self, cycle, previous, new_tokens), active)
            except (RuntimeError, ValueError, IndexError) as error:
                if early_exit is not None and len(early_exit.active) < early_exit.size:
                    raise_exit_failed(self.setup, len(early_exit.active), early_exit.size, error)
                if first is None or previous is None or first.shape == previous.shape:
                    raise
                raise_shape_changed(self.setup, first, previous, error)
            prediction, tokens_in, tokens_out = done.prediction, done.tokens_in, done.tokens_out
            if tokens_in is None or tokens_out is None:
                predictions = [prediction]
                continue
            check_tokens(self.setup, self.plain, tokens_in, tokens_out, cycle)
            if self.in_backward is not None and tokens_out.grad_fn is not None:
                tokens_out.grad_fn.register_prehook(self.in_backward)
            of_batch = tokens_out
            if first is None:
                first = tokens_in
                pruned = first.shape != tokens_out.shape
                if self.exit_rule is not None:
                    dim, draws = self.setup.batch_dim, done.stem_draws
                    early_exit = EarlyExit(self.exit_rule, tokens_out, dim, inputs, of_model, draws)
            elif early_exit is not None:
                prediction = early_exit.merge(predictions[-1], prediction)
                of_batch = early_exit.merge(tokens[-1], tokens_out)
            if early_exit is not None:
                tokens_out, first = early_exit.update(previous, tokens_out, done.prediction, first)
            if not self.keep_all:
                predictions.clear()
                tokens.clear()
            predictions.append(prediction)
            tokens.append(of_batch)
            previous = tokens_out
            if early_exit is not None and early_exit.done:
                break
        output = CycleOutput(tuple(predictions), tuple(tokens))
        sample_cycles = None if early_exit is None else early_exit.cycles
        return RunResult(output, cycle, pruned, sample_cycles)

    def next_input(self, previous: Tensor, first: Tensor, cycle: int) -> Tensor:
        """The input tokens of a later cycle.

        Args:
            previous: Output tokens of the previous cycle.
            first: Input tokens of the first cycle.
            cycle: Number of the cycle, 2 or more.
        """
        setup = self.setup
        like = first if setup.cycle_norm == "input" else None
        if first.shape != previous.shape and (setup.input_injection or like is not None):
            option = "input_injection" if setup.input_injection else "cycle_norm='input'"
            raise ValueError(
                f"{option} combines the stack's input {list(first.shape)} with later cycles' "
                f"tokens {list(previous.shape)}: expected equal shapes (the stack must not prune)"
            )
        if setup.cycle_norm is not None:
            check_channels_last(setup, previous)
            previous = normed(previous, like)
        if setup.input_injection:
            previous = previous + setup.input_injection * first
        return previous if self.teacher is None else self.teacher.embed(previous, cycle)
