"""Batched cycles: one call of stem and tail for all cycles, and repeated calls of the blocks.

An optimisation of the ordinary calls for models with an expensive stem. The model runs the first
cycle itself, while the pass records each block's other arguments. After the last block the later
cycles run: each block is called again with its recorded arguments. The tokens of all cycles leave
the stack in one batch, ``[N * B, T, D]``, so that one call of the model's tail serves all of them,
and its output is split. This equals the ordinary calls only if the model does nothing to the
tokens between its blocks and its tail treats samples independently, which `verify` checks.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from cycledistill._call import call_plain
from cycledistill._errors import (
    check_no_cache,
    check_tokens,
    raise_cycles_did_not_run,
    raise_own_checkpoint,
    raise_ran_twice,
)
from cycledistill._exit import EarlyExit
from cycledistill._output import CycleOutput
from cycledistill._recompute import inside_reentrant_checkpoint
from cycledistill._run import CycleRun, RunResult
from cycledistill._setup import Phase, with_new_tokens
from cycledistill._split import split_output
from cycledistill._tokens import tokens_of, with_tokens
from cycledistill._tree import map_tensors


@dataclass
class BlockCall:
    """A block's call in the first cycle."""

    index: int
    block: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    token_name: str | None

    def repeat(self, tokens: Tensor) -> Any:
        """Call the block again on other tokens."""
        args, kwargs = with_new_tokens(self.args, self.kwargs, self.token_name, tokens)
        return self.block(*args, **kwargs)


@dataclass(eq=False)
class BatchedRun(CycleRun):
    """All cycles in one call of the model."""

    def __post_init__(self) -> None:
        self.phase: Phase = "stem"
        self.calls: list[BlockCall] = []
        self.first: Tensor | None = None
        self.tokens: list[Tensor] = []
        self.pruned = False
        self.early_exit: EarlyExit | None = None
        self._with_gradients = torch.is_grad_enabled()

    @property
    def checkpoints_blocks(self) -> bool:
        """Whether each block is checkpointed; with "cycle" the blocks of the first cycle are."""
        kind = self.setup.activation_checkpointing
        return kind == "block" or (kind == "cycle" and self.phase != "later cycles")

    def run(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> RunResult:
        """Call the model once; the later cycles run after its last block."""
        setup = self.setup
        check_no_cache(setup, [*args, *kwargs.values()])
        record = setup.records.begin()
        outer = setup.current.set(self)
        try:
            output = call_plain(self.plain, args, kwargs)
        except (RuntimeError, IndexError) as error:
            if self.keep_all and self.phase == "tail" and type(error) in (RuntimeError, IndexError):
                raise RuntimeError(
                    f"{setup.model} failed after {setup.stack.path!r}, on one batch with the "
                    f"samples of all {len(self.tokens)} cycles: {error}. What follows the stack "
                    "must not combine the tokens with tensors of the plain batch; with "
                    "batched=False it may"
                ) from error
            raise
        finally:
            setup.current.set(outer)
        tokens, self.tokens, self.first = self.tokens, [], None
        if not tokens:
            raise_cycles_did_not_run(setup, self.plain, [call.index for call in self.calls])
        self.calls = []
        setup.records.end(record, self, tokens[-1])
        if not self.keep_all:
            early_exit, self.early_exit = self.early_exit, None
            cycles = None if early_exit is None else early_exit.cycles
            return RunResult(CycleOutput((output,), (tokens[-1],)), len(tokens), cycles)
        predictions = split_output(setup, output, tokens, (args, kwargs))
        return RunResult(CycleOutput(predictions, tuple(tokens)), len(tokens))

    def before_block(self, index: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Record the arguments of a block's call in the first cycle."""
        if self.phase == "later cycles":
            return
        if self.phase == "tail" or (self.calls and index <= self.calls[-1].index):
            raise_ran_twice(self.setup, index)
        tokens, name = self.setup.split_tokens(index, args, kwargs)
        if self.phase == "stem":
            self.phase = "stack"
            self.first = tokens
        self.calls.append(BlockCall(index, self.setup.stack.blocks[index], args, kwargs, name))

    def after_block(self, index: int, output: Any) -> Any:
        """Run the later cycles after the last block; returns the output of the stack."""
        if self.phase == "later cycles" or index < len(self.setup.stack.blocks) - 1:
            return None
        if inside_reentrant_checkpoint(self._with_gradients):
            raise_own_checkpoint(self.setup)
        self.phase = "later cycles"
        outputs = self._run_cycles(output)
        self.phase = "tail"
        return self._concatenate(outputs) if self.keep_all else outputs[-1]

    def before_recomputed_block(
        self, index: int, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        """Nothing to replace: the first cycle's tokens are the model's own."""

    def after_recomputed_block(self, index: int, output: Any) -> None:
        """Raise if the model checkpoints its last block, and with it the later cycles."""
        if index == len(self.setup.stack.blocks) - 1:
            raise_own_checkpoint(self.setup)

    def _run_cycles(self, output: Any) -> list[Any]:
        """Outputs of the stack in each cycle, given that of the first."""
        setup, first = self.setup, self.first
        assert first is not None
        tokens = tokens_of(output)
        check_tokens(setup, self.plain, first, tokens, 1)
        self.pruned = first.shape != tokens.shape
        outputs, self.tokens = [output], [tokens]
        if self.exit_tolerance is not None:
            others = [(call.args[1:], call.kwargs) for call in self.calls]
            self.early_exit = EarlyExit(
                self.exit_tolerance, tokens, setup.batch_dim, others, first_is_batch=False
            )
        for cycle in range(2, self.num_cycles + 1):
            previous = tokens
            output = self._run_cycle(previous, self.next_input(previous, first, cycle), cycle)
            tokens = tokens_of(output)
            check_tokens(setup, self.plain, previous, tokens, cycle)
            if self.early_exit is not None:
                output = self.early_exit.merge(outputs[-1], output)
                tokens, first = self.early_exit.update(previous, tokens, first)
                self._keep_active(self.early_exit)
            outputs.append(output)
            self.tokens.append(tokens_of(output))
            if self.early_exit is not None and self.early_exit.done:
                break
        return outputs

    def _keep_active(self, early_exit: EarlyExit) -> None:
        """Reduce the recorded arguments to those of the active samples."""
        self.calls = [
            replace(call, args=(*call.args[:1], *args), kwargs=kwargs)
            for call, (args, kwargs) in zip(self.calls, early_exit.inputs(), strict=True)
        ]

    def _run_cycle(self, previous: Tensor, new_tokens: Tensor, cycle: int) -> Any:
        calls, teacher = self.calls, self.teacher

        def run(previous: Tensor, tokens: Tensor) -> Any:
            output: Any = tokens
            for call in calls:
                output = call.repeat(tokens)
                tokens_out = tokens_of(output)
                if teacher is not None:
                    tokens_out = teacher.adapt(tokens, tokens_out, cycle, call.index)
                    output = with_tokens(output, tokens_out)
                tokens = tokens_out
            if teacher is not None:
                output = with_tokens(output, teacher.apply_gate(previous, tokens, cycle))
            return output

        def recomputable(previous: Tensor, tokens: Tensor) -> Any:
            """As `run`, but in the backward pass, too, the hooks ignore the blocks."""
            if torch.compiler.is_compiling():
                return run(previous, tokens)
            phase, self.phase = self.phase, "later cycles"
            outer = self.setup.current.set(self)
            try:
                return run(previous, tokens)
            finally:
                self.setup.current.set(outer)
                self.phase = phase

        if self.setup.activation_checkpointing == "cycle" and torch.is_grad_enabled():
            return checkpoint(recomputable, previous, new_tokens, use_reentrant=False)
        return run(previous, new_tokens)

    def _concatenate(self, outputs: list[Any]) -> Any:
        """The outputs of all cycles in one batch."""
        ndim, batch_dim = self.tokens[0].ndim, self.setup.batch_dim
        size = self.tokens[0].shape[batch_dim]

        def concatenate(*cycles: Tensor) -> Tensor:
            dim = batch_dim if cycles[0].ndim == ndim else 0
            if cycles[0].ndim > dim and cycles[0].shape[dim] == size:
                return torch.cat(cycles, dim)
            return cycles[-1]

        return map_tensors(concatenate, outputs[0], *outputs[1:])
