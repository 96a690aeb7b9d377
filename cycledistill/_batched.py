"""Batched cycles: the stem once, the blocks again, one call of the tail for all cycles.

An optimisation of the ordinary calls for models whose stem is heavy. The model makes the first
cycle itself while the pass notes what each block gets beside its tokens. Behind the last block
the later cycles run: each block is called again with what it got before. The tokens of all cycles
leave the stack in one batch, ``[N * B, T, D]``, so that the model's own tail serves them in one
call, and its output is split again. This equals the ordinary calls only where the model does
nothing to the tokens between its blocks and its tail treats samples independently; `verify` tells.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from cycledistill._calls import call_plain, entering_tokens
from cycledistill._output import CycleOutput
from cycledistill._recompute import inside_reentrant_checkpoint
from cycledistill._refusals import (
    refuse_cache,
    refuse_cycles_that_did_not_run,
    refuse_infinite,
    refuse_other_shape,
    refuse_own_checkpoint,
    refuse_second_run,
)
from cycledistill._setup import Phase, Setup, with_new_tokens
from cycledistill._split import split_output
from cycledistill._teacher import TeacherOnly
from cycledistill._tokens import relative_change, tokens_of, with_tokens
from cycledistill._tree import map_tensors


@dataclass
class BlockCall:
    """One block of the first cycle and what it got."""

    index: int
    block: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    token_name: str | None

    def run(self, tokens: Tensor) -> Any:
        """Call the block again on other tokens."""
        args, kwargs = with_new_tokens(self.args, self.kwargs, self.token_name, tokens)
        return self.block(*args, **kwargs)


class BatchedPass:
    """All cycles in one call of the model.

    Args:
        setup: Of the wrapper.
        plain: The model.
        teacher: Parameters of the later cycles, or None.
        num_cycles: Cycles asked for.
        exit_tolerance: Stop once no sample's tokens change by more than this part of their norm.
        keep_all: Whether all cycles' tokens leave the stack in one batch, or the last one's alone.
    """

    def __init__(
        self,
        setup: Setup,
        plain: nn.Module,
        teacher: TeacherOnly | None,
        num_cycles: int,
        exit_tolerance: float | None = None,
        keep_all: bool = True,
    ) -> None:
        self.setup = setup
        self.plain = plain
        self.teacher = teacher
        self.num_cycles = num_cycles
        self.exit_tolerance = exit_tolerance
        self.keep_all = keep_all
        self.phase: Phase = "stem"
        self.calls: list[BlockCall] = []
        self.entered: Tensor | None = None
        self.tokens: list[Tensor] = []
        self.pruned = False
        # Compiled, a reentrant checkpoint is none.
        self._with_gradients = torch.is_grad_enabled() and not torch.compiler.is_compiling()

    @property
    def checkpoints_blocks(self) -> bool:
        """Whether blocks keep their inputs alone; "cycle" does it in the first cycle."""
        kind = self.setup.activation_checkpointing
        return kind == "block" or (kind == "cycle" and self.phase != "later cycles")

    def run(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[CycleOutput, int]:
        """Predictions and tokens of every cycle (or of the last alone), and how many ran."""
        setup = self.setup
        refuse_cache([*args, *kwargs.values()])
        record = setup.records.begin()
        before = setup.running.set(self)
        try:
            output = call_plain(self.plain, args, kwargs)
        except (RuntimeError, IndexError) as error:
            if self.keep_all and self.phase == "tail" and type(error) in (RuntimeError, IndexError):
                raise RuntimeError(
                    f"{setup.model} failed behind {setup.stack.path!r}, where the samples of all "
                    f"{len(self.tokens)} cycles come in one batch: {error}. What follows the stack "
                    "must not combine the tokens with something of the plain batch; with "
                    "batched=False it may"
                ) from error
            raise
        finally:
            setup.running.set(before)
        tokens, self.tokens, self.entered = self.tokens, [], None
        if not tokens:
            refuse_cycles_that_did_not_run(setup, self.plain, [call.index for call in self.calls])
        self.calls = []
        setup.records.end(record, self, tokens[-1])
        if not self.keep_all:
            return CycleOutput((output,), (tokens[-1],)), len(tokens)
        predictions = split_output(setup, output, tokens, (args, kwargs))
        return CycleOutput(predictions, tuple(tokens)), len(tokens)

    def before_block(self, index: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Note the arguments of a block's call in the first cycle."""
        if self.phase == "later cycles":
            return
        if self.phase == "tail" or (self.calls and index <= self.calls[-1].index):
            refuse_second_run(self.setup, index)
        tokens, name = self.setup.split_tokens(index, args, kwargs)
        if self.phase == "stem":
            self.phase = "stack"
            self.entered = tokens
        self.calls.append(BlockCall(index, self.setup.stack.blocks[index], args, kwargs, name))

    def after_block(self, index: int, output: Any) -> Any:
        """Run the later cycles behind the last block; returns what leaves the stack."""
        if self.phase == "later cycles" or index < len(self.setup.stack.blocks) - 1:
            return None
        if self._with_gradients and not torch.is_grad_enabled() and inside_reentrant_checkpoint():
            refuse_own_checkpoint(self.setup)
        self.phase = "later cycles"
        outputs = self._run_cycles(output)
        self.phase = "tail"
        return self._fold(outputs) if self.keep_all else outputs[-1]

    def before_block_again(self, index: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """The first cycle's tokens are the model's own."""

    def after_block_again(self, index: int, output: Any) -> None:
        """A checkpoint of the model's own over the last block would hold the later cycles."""
        if index == len(self.setup.stack.blocks) - 1:
            refuse_own_checkpoint(self.setup)

    def _run_cycles(self, output: Any) -> list[Any]:
        """What leaves the stack in each cycle, the first one's output being given."""
        setup, entered = self.setup, self.entered
        assert entered is not None
        tokens = tokens_of(output)
        refuse_other_shape(setup, self.plain, entered, tokens, 1)
        self.pruned = entered.shape != tokens.shape
        if setup.check_finite:
            refuse_infinite(setup, tokens, 1)
        outputs, self.tokens = [output], [tokens]
        for cycle in range(2, self.num_cycles + 1):
            before = tokens
            entering = entering_tokens(setup, self.teacher, before, entered, cycle)
            output = self._run_cycle(entering, cycle)
            tokens = tokens_of(output)
            refuse_other_shape(setup, self.plain, before, tokens, cycle)
            if setup.check_finite:
                refuse_infinite(setup, tokens, cycle)
            outputs.append(output)
            self.tokens.append(tokens)
            tolerance = self.exit_tolerance
            if tolerance and relative_change(before, tokens, setup.batch_dim) < tolerance:
                break
        return outputs

    def _run_cycle(self, entering: Tensor, cycle: int) -> Any:
        calls, teacher = self.calls, self.teacher

        def run(tokens: Tensor) -> Any:
            output: Any = tokens
            for call in calls:
                output = call.run(tokens)
                left = tokens_of(output)
                if teacher is not None:
                    left = teacher.adapt(tokens, left, cycle, call.index)
                    output = with_tokens(output, left)
                tokens = left
            return output

        def run_again(tokens: Tensor) -> Any:
            """As `run`, also in the backward pass, where the hooks must let the blocks pass."""
            if torch.compiler.is_compiling():
                return run(tokens)
            phase, self.phase = self.phase, "later cycles"
            before = self.setup.running.set(self)
            try:
                return run(tokens)
            finally:
                self.setup.running.set(before)
                self.phase = phase

        if self.setup.activation_checkpointing == "cycle" and torch.is_grad_enabled():
            return checkpoint(run_again, entering, use_reentrant=False)
        return run(entering)

    def _fold(self, outputs: list[Any]) -> Any:
        """Every cycle's output in one batch."""
        ndim, batch_dim = self.tokens[0].ndim, self.setup.batch_dim
        size = self.tokens[0].shape[batch_dim]

        def fold(*cycles: Tensor) -> Tensor:
            dim = batch_dim if cycles[0].ndim == ndim else 0
            if cycles[0].ndim > dim and cycles[0].shape[dim] == size:
                return torch.cat(cycles, dim)
            return cycles[-1]

        return map_tensors(fold, outputs[0], *outputs[1:])
