"""A switch on each block: run, run and recompute in the backward pass, or answer at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from cycledistill._tree import iter_tensors


class BlockSwitch:
    """Decides what a call of a block's ``forward`` does.

    The hooks of a block stay outside of it, so they run once. Installed and removed with the
    hooks, not for each pass: compilation cannot follow methods that come and go.

    Attributes:
        recompute: Whether a call keeps nothing but its inputs (activation checkpointing).
        answers: What the blocks return instead of running, by index; None lets them run. A block
            that is not in it answers as the last one does.
        answered: Whether any block has answered so.
    """

    def __init__(self, blocks: Sequence[nn.Module]) -> None:
        self._blocks = tuple(blocks)
        self.recompute = False
        self.answers: dict[int, Any] | None = None
        self.answered = False

    def install(self) -> None:
        """Put a switchable ``forward`` on every block."""
        for index, block in enumerate(self._blocks):
            switched = block.__dict__.get("forward")
            if not isinstance(switched, _SwitchedForward) or switched.switch is not self:
                _give_back(block)  # another's switch may have come along with a copied model
                block.forward = _SwitchedForward(self, index, block.forward)

    def remove(self) -> None:
        """Give every block its own ``forward`` back."""
        for block in self._blocks:
            _give_back(block)

    def answer(self, index: int) -> Any:
        """What a block returns without running."""
        assert self.answers is not None
        self.answered = True
        output = self.answers.get(index, self.answers[len(self._blocks) - 1])
        if not torch.is_grad_enabled() and any(t.requires_grad for t in iter_tensors(output)):
            raise RuntimeError(
                "head_per_cycle=True cannot be used with a model that checkpoints its activations "
                "with use_reentrant=True. Use use_reentrant=False"
            )
        return output


class _SwitchedForward:
    def __init__(self, switch: BlockSwitch, index: int, forward: Any) -> None:
        self.switch = switch
        self.index = index
        self.forward = forward

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.switch.answers is not None:
            return self.switch.answer(self.index)
        if self.switch.recompute and torch.is_grad_enabled():
            return checkpoint(self.forward, *args, use_reentrant=False, **kwargs)
        return self.forward(*args, **kwargs)


def _give_back(block: nn.Module) -> None:
    switched = block.__dict__.get("forward")
    if isinstance(switched, _SwitchedForward):
        del block.forward
        if switched.forward != block.forward:  # it had one of its own on the instance
            block.forward = switched.forward
