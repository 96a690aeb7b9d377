"""One ordinary call of the model, which is one cycle.

A hook in front of the model's first block replaces the tokens that the model has made with those
that left the last block in the cycle before; a hook behind the last block notes what leaves.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from cycledistill._chance import Chance
from cycledistill._recompute import inside_reentrant_checkpoint
from cycledistill._refusals import (
    refuse_cycles_that_did_not_run,
    refuse_reentrant_checkpoint,
    refuse_second_run,
    refuse_second_state,
    refuse_tokens_behind_others,
    refuse_tokens_without_gradient,
)
from cycledistill._setup import Phase, Setup, with_new_tokens
from cycledistill._teacher import TeacherOnly
from cycledistill._tokens import tokens_of, with_tokens
from cycledistill._tree import fresh_containers


class OneCycle(NamedTuple):
    """What came of a call.

    Attributes:
        prediction: What the model returned.
        entered: The tokens that entered its first block.
        left: The tokens that left its last block.
        stem_draws: Whether it drew random numbers before its first block.
    """

    prediction: Any
    entered: Tensor
    left: Tensor
    stem_draws: bool


class OrdinaryCall:
    """One call of the model, which is one cycle.

    Args:
        setup: Of the wrapper.
        cycle: Counted from 1.
        before: The tokens that left the cycle before, or None.
        entering: What enters the first block instead of the model's own tokens, or None.
        chance: The generators as they were at the first cycle's begin. The stem of a later cycle
            draws from these, so that masks and the like that it draws are those of the tokens.
            None leaves the generators alone.
        teacher: Parameters of the later cycles, or None.
        alone: Whether it is the only cycle of a step, in which teacher-only parameters still need
            a gradient, of zero.
    """

    def __init__(
        self,
        setup: Setup,
        cycle: int,
        before: Tensor | None,
        entering: Tensor | None,
        chance: Chance | None,
        teacher: TeacherOnly | None,
        alone: bool,
    ) -> None:
        self.setup = setup
        self.cycle = cycle
        self.before = before
        self.entering = entering
        self.chance = chance
        self.teacher = teacher
        self.alone = alone
        self.phase: Phase = "stem"
        self.blocks_run: list[int] = []
        self.held: list[_BatchNorm] = []
        self.entered: Tensor | None = None
        self.left: Tensor | None = None
        self._with_gradients = torch.is_grad_enabled()
        self._inside_reentrant = False
        self._stem_draws = False
        self._behind_stem: Chance | None = None
        self._tokens_in: Tensor | None = None
        self._beside: dict[int | str, Any] = {}
        self._earlier: tuple[dict[int | str, Any], Any] | None = None

    @property
    def checkpoints_blocks(self) -> bool:
        """Whether blocks keep their inputs alone; a compiled cycle does it by blocks, too."""
        kind = self.setup.activation_checkpointing
        return kind == "block" or (kind == "cycle" and torch.compiler.is_compiling())

    def run(self, plain: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> OneCycle:
        """Call the model."""
        setup = self.setup
        record = setup.records.begin()
        before = setup.running.set(self)
        if self.chance is not None and self.cycle > 1:
            self._behind_stem = Chance()
            self.chance.restore()
        try:
            prediction = call_plain(plain, args, kwargs)
        finally:
            setup.running.set(before)
            if self._behind_stem is not None and self.phase == "stem":
                self._behind_stem.restore()
            for norm in self.held:
                norm.track_running_stats = True
            self._tokens_in = self._earlier = None
            self._beside = {}
        # A record of the call must not hold what the call's own graph leads to.
        entered, self.entered = self.entered, None
        left, self.left = self.left, None
        whole = setup.skips_blocks or (self.blocks_run[:1] == [0] and self.phase == "tail")
        if entered is None or left is None or not whole:
            refuse_cycles_that_did_not_run(setup, plain, self.blocks_run)
        if self._inside_reentrant and not left.requires_grad:
            refuse_tokens_without_gradient(setup)
        setup.records.end(record, self, left)
        return OneCycle(prediction, entered, left, self._stem_draws)

    def before_block(
        self, index: int, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Hand the tokens in, if it is the first block."""
        setup = self.setup
        tokens, name = setup.split_tokens(index, args, kwargs)
        if self.phase == "tail" or (self.blocks_run and index <= self.blocks_run[-1]):
            refuse_second_run(setup, index)
        beside: dict[int | str, Any] = dict(enumerate(args[1:], 1))
        beside.update(kwargs)
        if self._earlier is not None:
            refuse_second_state(setup, index, tokens, beside, self._earlier)
        self._beside = beside
        self.blocks_run.append(index)
        changed = None
        if self.phase == "stem":
            self.phase = "stack"
            if self._behind_stem is not None:  # the generators go on where the last cycle ended
                self._behind_stem.restore()
            elif self.chance is not None and not torch.compiler.is_compiling():
                self._stem_draws = self.chance.has_changed()
            if self.entering is not None:
                if self._is_inside_reentrant():
                    refuse_reentrant_checkpoint(setup, index)
                tokens = self.entering.to(tokens.device)
                changed = with_new_tokens(args, kwargs, name, tokens)
            self.entered = tokens
        self._tokens_in = tokens
        return changed

    def after_block(self, index: int, output: Any) -> Any:
        """Note the tokens; behind the last block the tail begins."""
        changed = self._changed(index, output)
        self._earlier = (self._beside, output)
        last = index == len(self.setup.stack.blocks) - 1
        if last:
            self.phase = "tail"
            self._earlier = None
            if self.entered is not None:
                refuse_tokens_behind_others(self.setup, index, self.entered, output)
            self._inside_reentrant = self._is_inside_reentrant()
        if last or self.setup.skips_blocks:
            self.left = tokens_of(output if changed is None else changed)
        return changed

    def before_block_again(
        self, index: int, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Hand the same tokens in when the first block runs again."""
        tokens, name = self.setup.split_tokens(index, args, kwargs)
        changed = None
        if self.entering is not None and index == self.blocks_run[0]:
            if self._behind_stem is not None:
                self._behind_stem.restore_torch()
            tokens = self.entering.to(tokens.device)
            changed = with_new_tokens(args, kwargs, name, tokens)
        self._tokens_in = tokens
        return changed

    def after_block_again(self, index: int, output: Any) -> Any:
        """Apply the same adapter."""
        return self._changed(index, output)

    def _changed(self, index: int, output: Any) -> Any:
        """A block's output with what teacher-only parameters add to it, or None."""
        tokens_in, self._tokens_in = self._tokens_in, None
        if self.teacher is None:
            return None
        tokens = tokens_of(output)
        last = index == len(self.setup.stack.blocks) - 1
        if self.cycle > 1:
            assert tokens_in is not None
            tokens = self.teacher.adapt(tokens_in, tokens, self.cycle, index)
            if last and self.before is not None:
                tokens = self.teacher.open_gate(self.before, tokens, self.cycle)
            return with_tokens(output, tokens)
        if self.alone and last and torch.is_grad_enabled():
            return with_tokens(output, tokens + self.teacher.zero().to(tokens.dtype))
        return None

    def _is_inside_reentrant(self) -> bool:
        if torch.compiler.is_compiling() or torch.is_grad_enabled() or not self._with_gradients:
            return False
        return inside_reentrant_checkpoint()


def call_plain(plain: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call the model, which may write into the containers that it is given.

    A bare ``nn.ModuleList`` has no call of its own: its blocks run one after another.
    """
    args, kwargs = fresh_containers(args), fresh_containers(kwargs)
    if not isinstance(plain, nn.ModuleList):
        return plain(*args, **kwargs)
    tokens, *rest = args
    for block in plain:
        tokens = tokens_of(block(tokens, *rest, **kwargs))
    return tokens
