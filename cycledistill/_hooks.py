"""Module hooks that connect a model's blocks and batch norms to the current pass.

The hooks do nothing unless a pass of their wrapper runs in this thread or is being recomputed.
Ours is the first hook before a block and the last one after it, no matter when others were
registered: the hooks of users, and those of FSDP2, which must have resharded a block before it runs
again, belong to the block.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint
from torch.utils.hooks import RemovableHandle

from cycledistill._call import OrdinaryCall
from cycledistill._recompute import pass_of
from cycledistill._setup import Setup


def ignore(module: nn.Module, *_: Any) -> None:
    """What our hooks become in a copy of their module: it removes itself on its first call."""
    if not torch.compiler.is_compiling():
        _detach_copy(module)


def _make_ignore() -> Callable[..., None]:
    return ignore


class _Hook:
    """A hook that belongs to one wrapper and is not copied or pickled with its module."""

    def __init__(self, setup: Setup, index: int = -1) -> None:
        self.setup = setup
        self.index = index

    def __reduce__(self) -> tuple[Callable[[], Any], tuple[()]]:
        return _make_ignore, ()


class BeforeBlock(_Hook):
    """Tells the pass that a block is about to run."""

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """See `torch.nn.Module.register_forward_pre_hook`."""
        current, recomputed = pass_of(self.setup)
        if current is None:
            return None
        if recomputed:
            return current.before_recomputed_block(self.index, args, kwargs)
        return current.before_block(self.index, args, kwargs)


class AfterBlock(_Hook):
    """Tells the pass that a block has run."""

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        """See `torch.nn.Module.register_forward_hook`."""
        current, recomputed = pass_of(self.setup)
        if current is None:
            return None
        if recomputed:
            return current.after_recomputed_block(self.index, output)
        return current.after_block(self.index, output)


class FreezeBatchNorm(_Hook):
    """Freezes the statistics of a batch norm in the stem, which sees the batch in every cycle."""

    def __call__(self, module: _BatchNorm, args: tuple[Any, ...]) -> None:
        """See `torch.nn.Module.register_forward_pre_hook`."""
        call = self.setup.current.get()
        if not isinstance(call, OrdinaryCall) or not module.training:
            return
        if call.phase == "stem" and call.cycle > 1 and module.track_running_stats:
            module.track_running_stats = False
            call.frozen_norms.append(module)


class _CheckpointedForward:
    """A block's ``forward``, checkpointed while a pass asks for it.

    It is set on the instance, so it runs inside of the block's hooks, which run once.
    """

    def __init__(self, setup: Setup, forward: Any) -> None:
        self.setup = setup
        self.forward = forward

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if torch.is_grad_enabled():
            current, _ = pass_of(self.setup)
            if current is not None and current.checkpoints_blocks:
                return checkpoint(self.forward, *args, use_reentrant=False, **kwargs)
        return self.forward(*args, **kwargs)


class Attachment:
    """Our hooks on a model, which are attached while they have at least one user."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self._lock = threading.Lock()
        self._users = 0
        self._handles: list[RemovableHandle] = []
        self._places: list[tuple[nn.Module, int, int]] = []

    def hold(self, plain: nn.Module) -> None:
        """Add a user; the first one attaches the hooks."""
        with self._lock:
            self._users += 1
            if self._users == 1:
                self._attach(plain)

    def release(self) -> None:
        """Remove a user; the last one detaches the hooks."""
        with self._lock:
            self._users -= 1
            if not self._users:
                self._detach()

    def keep_places(self) -> None:
        """Move ours to the front of each block's pre-hooks and to the end of its hooks."""
        for block, first, last in self._places:
            before, after = block._forward_pre_hooks, block._forward_hooks
            if first in before and next(iter(before)) != first:
                others = {key: before.pop(key) for key in [*before] if key != first}
                before.update(others)
            if last in after and next(reversed(after)) != last:
                after[last] = after.pop(last)

    def _attach(self, plain: nn.Module) -> None:
        setup = self.setup
        inside = {module for block in setup.stack.blocks for module in block.modules()}
        for index, block in enumerate(setup.stack.blocks):
            first = block.register_forward_pre_hook(
                BeforeBlock(setup, index), with_kwargs=True, prepend=True
            )
            last = block.register_forward_hook(AfterBlock(setup, index))
            self._handles += [first, last]
            self._places.append((block, first.id, last.id))
            if setup.activation_checkpointing is not None:
                block.forward = _CheckpointedForward(setup, block.forward)
        for module in plain.modules():
            if isinstance(module, _BatchNorm) and module not in inside:
                self._handles.append(module.register_forward_pre_hook(FreezeBatchNorm(setup)))

    def _detach(self) -> None:
        for handle in self._handles:
            handle.remove()
        for block in self.setup.stack.blocks:
            _restore_forward(block)
        self._handles, self._places = [], []


def detach_copies(model: nn.Module) -> None:
    """Remove what our hooks left behind when their module was copied or unpickled."""
    for module in model.modules():
        _detach_copy(module)
        _restore_forward(module)


def detach_stale(blocks: Iterable[nn.Module]) -> None:
    """Remove the hooks of a wrapper that was garbage-collected."""
    for block in blocks:
        _detach(block, lambda hook: isinstance(hook, _Hook))


def _detach_copy(module: nn.Module) -> None:
    _detach(module, lambda hook: hook is ignore)


def _detach(module: nn.Module, chosen: Callable[[Any], bool]) -> None:
    hooks: dict[int, Any]
    for hooks, with_kwargs in (
        (module._forward_pre_hooks, module._forward_pre_hooks_with_kwargs),
        (module._forward_hooks, module._forward_hooks_with_kwargs),
    ):
        for key in [key for key, hook in hooks.items() if chosen(hook)]:
            del hooks[key]
            with_kwargs.pop(key, None)


def _restore_forward(block: nn.Module) -> None:
    ours = block.__dict__.get("forward")
    if isinstance(ours, _CheckpointedForward):
        del block.forward
        if ours.forward != block.forward:  # the instance had a forward of its own
            block.forward = ours.forward
