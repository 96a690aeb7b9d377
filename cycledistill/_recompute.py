"""Activation checkpointing of blocks: their activations are recomputed in the backward pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


class BlockRecompute:
    """Makes each block's ``forward`` keep nothing but its inputs while ``active``.

    The hooks of a block stay outside of the recomputed part, so they run once. Installed and
    removed with the hooks, not for each pass: compilation cannot follow methods that come and go.
    """

    def __init__(self, blocks: Sequence[nn.Module]) -> None:
        self._blocks = tuple(blocks)
        self.active = False

    def install(self) -> None:
        """Put a switchable ``forward`` on every block."""
        for block in self._blocks:
            switched = block.__dict__.get("forward")
            if not isinstance(switched, _SwitchedForward) or switched.switch is not self:
                _give_back(block)  # another's switch may have come along with a copied model
                block.forward = _SwitchedForward(self, block.forward)

    def remove(self) -> None:
        """Give every block its own ``forward`` back."""
        for block in self._blocks:
            _give_back(block)


class _SwitchedForward:
    def __init__(self, switch: BlockRecompute, forward: Any) -> None:
        self.switch = switch
        self.forward = forward

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.switch.active and torch.is_grad_enabled():
            return checkpoint(self.forward, *args, use_reentrant=False, **kwargs)
        return self.forward(*args, **kwargs)


def _give_back(block: nn.Module) -> None:
    switched = block.__dict__.get("forward")
    if isinstance(switched, _SwitchedForward):
        del block.forward
        if switched.forward != block.forward:  # it had one of its own on the instance
            block.forward = switched.forward
