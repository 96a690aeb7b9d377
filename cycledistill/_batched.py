"""Batched cycles: the stem once, the blocks again, one call of the tail for all cycles.

An optimisation of the ordinary calls for models whose stem is heavy. The model makes the first
cycle itself while the pass notes what each block gets beside its tokens. Behind the last block
the later cycles run: each block is called again with what it got before. The tokens of all cycles
leave the stack in one batch, ``[N * B, T, D]``, so that the model's own tail serves them in one
call, and its output is split again. This equals the ordinary calls only where the model does
nothing to the tokens between its blocks and its tail treats samples independently; `verify` tells.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from cycledistill._call import call_plain
from cycledistill._cycled_call import Cycled, CycledCall
from cycledistill._exit import EarlyExit
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
from cycledistill._setup import Phase, with_new_tokens
from cycledistill._split import split_output
from cycledistill._tokens import tokens_of, with_tokens
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


@dataclass(eq=False)
class BatchedPass(CycledCall):
    """All cycles in one call of the model."""

    def __post_init__(self) -> None:
        self.phase: Phase = "stem"
        self.calls: list[BlockCall] = []
        self.entered: Tensor | None = None
        self.tokens: list[Tensor] = []
        self.pruned = False
        self.leaving: EarlyExit | None = None
        # Compiled, a reentrant checkpoint is none.
        self._with_gradients = torch.is_grad_enabled() and not torch.compiler.is_compiling()

    @property
    def checkpoints_blocks(self) -> bool:
        """Whether blocks keep their inputs alone; "cycle" does it in the first cycle."""
        kind = self.setup.activation_checkpointing
        return kind == "block" or (kind == "cycle" and self.phase != "later cycles")

    def run(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Cycled:
        """Call the model once; the later cycles run behind its last block."""
        setup = self.setup
        refuse_cache(setup, [*args, *kwargs.values()])
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
            leaving, self.leaving = self.leaving, None
            cycles = None if leaving is None else leaving.cycles
            return Cycled(CycleOutput((output,), (tokens[-1],)), len(tokens), cycles)
        predictions = split_output(setup, output, tokens, (args, kwargs))
        return Cycled(CycleOutput(predictions, tuple(tokens)), len(tokens))

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
        if self.exit_tolerance is not None:
            beside = [(call.args[1:], call.kwargs) for call in self.calls]
            self.leaving = self.begin_exit(tokens, beside, first_is_batch=False)
        for cycle in range(2, self.num_cycles + 1):
            before = tokens
            entering = self.entering(before, entered, cycle)
            output = self._run_cycle(before, entering, cycle)
            tokens = tokens_of(output)
            refuse_other_shape(setup, self.plain, before, tokens, cycle)
            if setup.check_finite:
                refuse_infinite(setup, tokens, cycle)
            if self.leaving is not None:
                output = self.leaving.put(outputs[-1], output)
                tokens, entered = self.leaving.settle(before, tokens, entered)
                self._narrow(self.leaving)
            outputs.append(output)
            self.tokens.append(tokens_of(output))
            if self.leaving is not None and self.leaving.done:
                break
        return outputs

    def _narrow(self, leaving: EarlyExit) -> None:
        """Call the blocks with what belongs to the samples that are under way."""
        self.calls = [
            replace(call, args=(*call.args[:1], *args), kwargs=kwargs)
            for call, (args, kwargs) in zip(self.calls, leaving.inputs(), strict=True)
        ]

    def _run_cycle(self, before: Tensor, entering: Tensor, cycle: int) -> Any:
        calls, teacher = self.calls, self.teacher

        def run(before: Tensor, tokens: Tensor) -> Any:
            output: Any = tokens
            for call in calls:
                output = call.run(tokens)
                left = tokens_of(output)
                if teacher is not None:
                    left = teacher.adapt(tokens, left, cycle, call.index)
                    output = with_tokens(output, left)
                tokens = left
            if teacher is not None:
                output = with_tokens(output, teacher.open_gate(before, tokens, cycle))
            return output

        def run_again(before: Tensor, tokens: Tensor) -> Any:
            """As `run`, also in the backward pass, where the hooks must let the blocks pass."""
            if torch.compiler.is_compiling():
                return run(before, tokens)
            phase, self.phase = self.phase, "later cycles"
            outer = self.setup.running.set(self)
            try:
                return run(before, tokens)
            finally:
                self.setup.running.set(outer)
                self.phase = phase

        if self.setup.activation_checkpointing == "cycle" and torch.is_grad_enabled():
            return checkpoint(run_again, before, entering, use_reentrant=False)
        return run(before, entering)

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
