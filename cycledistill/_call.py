"""One ordinary call of the model, which is one cycle.

A hook on the model's first block replaces the tokens that the model made with the previous cycle's
output tokens; a hook on the last block records this cycle's output tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from cycledistill._errors import (
    check_single_state,
    check_tokens_first,
    check_tokens_have_gradient,
    raise_cycles_did_not_run,
    raise_ran_twice,
    raise_reentrant_checkpoint,
)
from cycledistill._recompute import inside_reentrant_checkpoint
from cycledistill._rng import RngState
from cycledistill._setup import Phase, Setup, with_new_tokens
from cycledistill._teacher import TeacherOnly
from cycledistill._tokens import tokens_of, with_tokens
from cycledistill._tree import fresh_containers


class CallResult(NamedTuple):
    """The result of a call.

    Attributes:
        prediction: What the model returned.
        tokens_in: Input tokens of the first block.
        tokens_out: Output tokens of the last block.
        stem_draws: Whether the model drew random numbers before its first block.
    """

    prediction: Any
    tokens_in: Tensor
    tokens_out: Tensor
    stem_draws: bool


@dataclass(eq=False)
class OrdinaryCall:
    """One call of the model, which is one cycle.

    Attributes:
        setup: The wrapper's setup.
        cycle: Number of the cycle, from 1.
        previous: Output tokens of the previous cycle, or None.
        new_tokens: Input of the first block instead of the model's own tokens, or None.
        rng: State of the generators before the first cycle. The stem of a later cycle starts from
            it, so that it draws the same masks as the stem that made the tokens. None leaves the
            generators alone.
        teacher: Parameters of the later cycles, or None.
        only_cycle: Whether this is the only cycle of a train step, in which teacher-only parameters
            still need a gradient, of zero.
    """

    setup: Setup
    cycle: int
    previous: Tensor | None
    new_tokens: Tensor | None
    rng: RngState | None
    teacher: TeacherOnly | None
    only_cycle: bool

    def __post_init__(self) -> None:
        self.phase: Phase = "stem"
        self.blocks_run: list[int] = []
        self.frozen_norms: list[_BatchNorm] = []
        self.tokens_in: Tensor | None = None
        self.tokens_out: Tensor | None = None
        self._with_gradients = torch.is_grad_enabled()
        self._inside_reentrant = False
        self._stem_draws = False
        self._rng_after_stem: RngState | None = None
        self._block_tokens: Tensor | None = None
        self._block_inputs: dict[int | str, Any] = {}
        self._last_block: tuple[dict[int | str, Any], Any] | None = None

    @property
    def checkpoints_blocks(self) -> bool:
        """Whether each block is checkpointed; a compiled cycle is checkpointed by block, too."""
        kind = self.setup.activation_checkpointing
        return kind == "block" or (kind == "cycle" and torch.compiler.is_compiling())

    def run(self, plain: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> CallResult:
        """Call the model."""
        setup = self.setup
        record = setup.records.begin()
        outer = setup.current.set(self)
        if self.rng is not None and self.cycle > 1:
            self._rng_after_stem = RngState()
            self.rng.restore()
        try:
            prediction = call_plain(plain, args, kwargs)
        finally:
            setup.current.set(outer)
            if self._rng_after_stem is not None and self.phase == "stem":
                self._rng_after_stem.restore()
            for norm in self.frozen_norms:
                norm.track_running_stats = True
            self._block_tokens = self._last_block = None
            self._block_inputs = {}
        # The record of this call must not hold references to the call's own graph.
        tokens_in, self.tokens_in = self.tokens_in, None
        tokens_out, self.tokens_out = self.tokens_out, None
        complete = setup.layerdrop or (self.blocks_run[:1] == [0] and self.phase == "tail")
        if tokens_in is None or tokens_out is None or not complete:
            raise_cycles_did_not_run(setup, plain, self.blocks_run)
        if self._inside_reentrant and not tokens_out.requires_grad:
            check_tokens_have_gradient(setup)
        setup.records.end(record, self, tokens_out)
        return CallResult(prediction, tokens_in, tokens_out, self._stem_draws)

    def before_block(
        self, index: int, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Replace the input tokens of the first block."""
        setup = self.setup
        tokens, name = setup.split_tokens(index, args, kwargs)
        if self.phase == "tail" or (self.blocks_run and index <= self.blocks_run[-1]):
            raise_ran_twice(setup, index)
        inputs: dict[int | str, Any] = dict(enumerate(args[1:], 1))
        inputs.update(kwargs)
        if self._last_block is not None:
            check_single_state(setup, index, tokens, inputs, self._last_block)
        self._block_inputs = inputs
        self.blocks_run.append(index)
        changed = None
        if self.phase == "stem":
            self.phase = "stack"
            if self._rng_after_stem is not None:  # continue where the previous cycle ended
                self._rng_after_stem.restore()
            elif self.rng is not None and not torch.compiler.is_compiling():
                self._stem_draws = self.rng.has_changed()
            if self.new_tokens is not None:
                if inside_reentrant_checkpoint(self._with_gradients):
                    raise_reentrant_checkpoint(setup, index)
                tokens = self.new_tokens.to(tokens.device)
                changed = with_new_tokens(args, kwargs, name, tokens)
            self.tokens_in = tokens
        self._block_tokens = tokens
        return changed

    def after_block(self, index: int, output: Any) -> Any:
        """Record the output tokens; the tail begins after the last block."""
        changed = self._changed(index, output)
        self._last_block = (self._block_inputs, output)
        last = index == len(self.setup.stack.blocks) - 1
        if last:
            self.phase = "tail"
            self._last_block = None
            if self.tokens_in is not None:
                check_tokens_first(self.setup, index, self.tokens_in, output)
            self._inside_reentrant = inside_reentrant_checkpoint(self._with_gradients)
        if last or self.setup.layerdrop:
            self.tokens_out = tokens_of(output if changed is None else changed)
        return changed

    def before_recomputed_block(
        self, index: int, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Replace the input tokens of the first block with the same ones again."""
        tokens, name = self.setup.split_tokens(index, args, kwargs)
        changed = None
        if self.new_tokens is not None and index == self.blocks_run[0]:
            if self._rng_after_stem is not None:
                self._rng_after_stem.restore_torch()
            tokens = self.new_tokens.to(tokens.device)
            changed = with_new_tokens(args, kwargs, name, tokens)
        self._block_tokens = tokens
        return changed

    def after_recomputed_block(self, index: int, output: Any) -> Any:
        """Apply the same teacher-only parameters again."""
        return self._changed(index, output)

    def _changed(self, index: int, output: Any) -> Any:
        """A block's output after the teacher-only parameters, or None if they do not change it."""
        block_tokens, self._block_tokens = self._block_tokens, None
        if self.teacher is None:
            return None
        tokens = tokens_of(output)
        last = index == len(self.setup.stack.blocks) - 1
        if self.cycle > 1:
            assert block_tokens is not None
            tokens = self.teacher.adapt(block_tokens, tokens, self.cycle, index)
            if last and self.previous is not None:
                tokens = self.teacher.apply_gate(self.previous, tokens, self.cycle)
            return with_tokens(output, tokens)
        if self.only_cycle and last and torch.is_grad_enabled():
            return with_tokens(output, tokens + self.teacher.zero().to(tokens.dtype))
        return None


def call_plain(plain: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call the model on copies of its containers, which it may modify.

    A bare ``nn.ModuleList`` has no forward: its blocks run one after another.
    """
    args, kwargs = fresh_containers(args), fresh_containers(kwargs)
    if not isinstance(plain, nn.ModuleList):
        return plain(*args, **kwargs)
    tokens, *rest = args
    for block in plain:
        tokens = tokens_of(block(tokens, *rest, **kwargs))
    return tokens
