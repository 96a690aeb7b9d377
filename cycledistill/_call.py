"""One call of the model, which is one cycle.

A hook on the model's first block replaces the tokens that the model made with the previous cycle's
output tokens; a hook on the last block records this cycle's output tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from cycledistill._caches import rewinding
from cycledistill._calls import inside_reentrant_checkpoint
from cycledistill._errors import (
    PreviousBlock,
    check_single_state,
    check_tokens_first,
    check_tokens_have_gradient,
    raise_cycles_did_not_run,
    raise_ran_twice,
    raise_reentrant_checkpoint,
    raise_tokens_changed,
    warn_of_backward_hooks,
)
from cycledistill._rng import RngState, replaying
from cycledistill._setup import with_new_tokens
from cycledistill._tokens import tokens_of, with_tokens
from cycledistill._tree import fresh_containers

if TYPE_CHECKING:
    from cycledistill._run import CycleRun


class CallResult(NamedTuple):
    """The result of a call.

    Attributes:
        prediction: What the model returned.
        tokens_in: Input tokens of the first block, or None if no block ran.
        tokens_out: Output tokens of the last block, likewise.
        stem_draws: Whether the model drew random numbers before its first block.
    """

    prediction: Any
    tokens_in: Tensor | None
    tokens_out: Tensor | None
    stem_draws: bool


@dataclass(eq=False)
class CycleCall:
    """One call of the model, or of its stack alone, which is one cycle.

    Attributes:
        of_run: The run that the cycle belongs to.
        cycle: Number of the cycle, from 1.
        previous: Output tokens of the previous cycle, or None.
        new_tokens: Input of the first block instead of the model's own tokens, or None.
        rng: State of the generators before the first cycle. The stem of a later cycle starts from
            it, so that it draws the same masks as the stem that made the tokens. None leaves the
            generators alone.
    """

    of_run: CycleRun
    cycle: int
    previous: Tensor | None = None
    new_tokens: Tensor | None = None
    rng: RngState | None = None

    def __post_init__(self) -> None:
        self.setup = self.of_run.setup
        self.blocks_run: list[int] = []
        self.frozen_norms: list[_BatchNorm] = []
        self.tokens_in: Tensor | None = None
        self.tokens_out: Tensor | None = None
        self.inside_reentrant = False
        self._with_gradients = torch.is_grad_enabled()
        self._version = 0
        self._version_in = 0
        self._stem_draws = False
        self._rng_after_stem: RngState | None = None
        self._block_tokens: Tensor | None = None
        self._block_inputs: tuple[Tensor | None, dict[int | str, Any]] = (None, {})
        self._last_block: PreviousBlock | None = None

    @property
    def checkpoints_blocks(self) -> bool:
        """Whether each block is checkpointed; a compiled cycle is checkpointed by block, too."""
        kind = self.setup.activation_checkpointing
        return kind == "block" or (kind == "cycle" and torch.compiler.is_compiling())

    def run_checkpointed(self, called: Callable[..., Any], *inputs: Any) -> CallResult:
        """As `run`; with checkpoints of whole cycles, only the inputs are kept."""
        by_cycle = self.setup.activation_checkpointing == "cycle" and torch.is_grad_enabled()
        if not by_cycle or torch.compiler.is_compiling():
            return self.run(called, *inputs)

        def run(*inputs: Any) -> CallResult:
            if self.of_run.in_backward is not None and torch._C._current_autograd_node():
                self.of_run.in_backward()
            return replace(self).run(called, *inputs)

        # As arguments, because torch restores the generators of the devices of these.
        run = replaying(rewinding(run, *inputs), self.setup.generators, *inputs)
        return checkpoint(run, *inputs, use_reentrant=False)

    def run(self, called: Callable[..., Any], *inputs: Any) -> CallResult:
        """Call the model or the stack."""
        setup = self.setup
        outer = setup.calls.run(self)
        record = setup.calls.begin_record() if outer is None else None
        previous = version_of(self.previous)
        if self.rng is not None and self.cycle > 1:
            self._rng_after_stem = RngState(self.rng.own)
            self.rng.restore()
        try:
            prediction = called(*inputs)
        finally:
            setup.calls.run(outer)
            if self._rng_after_stem is not None and not self.blocks_run:
                self._rng_after_stem.restore()
            for norm in self.frozen_norms:
                norm.track_running_stats = True
            self._block_tokens = self._last_block = None
            self._block_inputs = (None, {})
        # The record of this call must not hold references to the call's own graph.
        tokens_in, self.tokens_in = self.tokens_in, None
        tokens_out, self.tokens_out = self.tokens_out, None
        if self.of_run.may_skip and not self.blocks_run:
            return CallResult(prediction, None, None, False)
        complete = setup.layerdrop or self.blocks_run[:1] == [0]
        if tokens_in is None or tokens_out is None or not complete:
            raise_cycles_did_not_run(setup, self.of_run.plain, self.blocks_run)
        if self.of_run.num_cycles > 1 and previous != version_of(self.previous):
            raise_tokens_changed(setup, f"{setup.name_of(0)} changes its input")
        if self.of_run.num_cycles > 1 and self._version != version_of(tokens_out):
            raise_tokens_changed(setup, f"{setup.model} changes the output of its last block")
        if self.inside_reentrant and not tokens_out.requires_grad:
            check_tokens_have_gradient(setup)
        setup.calls.end_record(record, self, tokens_out)
        return CallResult(prediction, tokens_in, tokens_out, self._stem_draws)

    def before_block(
        self, index: int, args: tuple[Any, ...], kwargs: dict[str, Any], recomputed: bool
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Replace the input tokens of the first block; if it is recomputed, with the same ones."""
        setup = self.setup
        tokens, name = setup.split_tokens(index, args, kwargs)
        if not recomputed:
            self._enter_block(index, tokens, args, kwargs)
        changed = None
        if index == self.blocks_run[0]:
            if self._rng_after_stem is not None:  # continue where the previous cycle ended
                self._rng_after_stem.restore(only_torch=recomputed)
            elif self.rng is not None and not recomputed and not torch.compiler.is_compiling():
                self._stem_draws = self.rng.has_changed()
            if self.new_tokens is not None:
                if inside_reentrant_checkpoint(self._with_gradients):
                    raise_reentrant_checkpoint(setup, index)
                tokens = kept(self.new_tokens.to(tokens.device))
                changed = with_new_tokens(args, kwargs, name, tokens)
        if self._needs_input(index):
            tokens = kept(tokens)
        if index == self.blocks_run[0] and not recomputed:
            self.tokens_in = tokens
        self._block_tokens, self._version_in = tokens, version_of(tokens)
        return changed

    def after_block(self, index: int, output: Any, recomputed: bool) -> Any:
        """Record the output tokens of the last block; apply the teacher-only parameters."""
        if self._version_in != version_of(self._block_tokens) and self._needs_input(index):
            raise_tokens_changed(self.setup, f"{self.setup.name_of(index)} changes its input")
        changed = self._changed(index, output)
        if recomputed:
            return changed
        self._last_block = PreviousBlock(*self._block_inputs, output)
        last = self._is_last(index)
        if last:
            self._last_block = None
            if self.tokens_in is not None:
                check_tokens_first(self.setup, index, self.tokens_in, output)
            self.inside_reentrant = inside_reentrant_checkpoint(self._with_gradients)
            if self.cycle < self.of_run.num_cycles and not torch.compiler.is_compiling():
                warn_of_backward_hooks(self.setup, index)
        if last or self.setup.layerdrop:
            self.tokens_out = kept(tokens_of(output if changed is None else changed))
            self._version = version_of(self.tokens_out)
        return changed

    def _enter_block(
        self, index: int, tokens: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        """Note that a block runs, and check that it is its turn."""
        if self.blocks_run and index <= self.blocks_run[-1]:
            raise_ran_twice(self.setup, index)
        inputs: dict[int | str, Any] = dict(enumerate(args[1:], 1))
        inputs.update(kwargs)
        if self._last_block is not None:
            check_single_state(self.setup, index, tokens, inputs, self._last_block)
        self._block_inputs = (tokens, inputs)
        self.blocks_run.append(index)

    def _needs_input(self, index: int) -> bool:
        """Whether a block's input tokens are used after it."""
        if self.cycle > 1:
            return self.of_run.teacher is not None and self.setup.adapter_rank > 0
        later = self.setup.input_injection or self.setup.cycle_norm == "input"
        return bool(later) and index == self.blocks_run[0] and self.of_run.num_cycles > 1

    def _is_last(self, index: int) -> bool:
        return index == len(self.setup.stack.blocks) - 1

    def _changed(self, index: int, output: Any) -> Any:
        """A block's output after the teacher-only parameters, or None if they do not change it."""
        block_tokens, self._block_tokens = self._block_tokens, None
        teacher = self.of_run.teacher
        if teacher is None:
            return None
        tokens = tokens_of(output)
        if self.cycle > 1:
            assert block_tokens is not None
            tokens = teacher.adapt(block_tokens, tokens, self.cycle, index)
            if self._is_last(index) and self.previous is not None:
                tokens = teacher.apply_gate(self.previous, tokens, self.cycle)
            return with_tokens(output, tokens)
        if self.of_run.num_cycles == 1 and self._is_last(index) and torch.is_grad_enabled():
            # In a train step of one cycle, the parameters still need a gradient, of zero.
            return with_tokens(output, tokens + teacher.zero().to(tokens.dtype))
        return None


def version_of(tensor: Tensor | None) -> int:
    """How often a tensor was changed in place; 0 where torch does not count it."""
    return 0 if tensor is None or _is_uncounted(tensor) else tensor._version


def kept(tensor: Tensor) -> Tensor:
    """The tensor, or a copy where changes of it in place would not be noticed."""
    return tensor.clone() if _is_uncounted(tensor) else tensor


def _is_uncounted(tensor: Tensor) -> bool:
    return torch.compiler.is_compiling() or tensor.is_inference()


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
