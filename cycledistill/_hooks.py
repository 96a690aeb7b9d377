"""Module hooks that connect a model's blocks, and its batch norms, to the running pass.

The hooks do nothing unless a pass of their wrapper is running in this thread, or is recomputed in
the backward pass. Ours is the first hook before a block and the last after it, whenever others were
registered: a user's hooks, and those of FSDP2, which must have closed a block before it runs again,
are part of the block.
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
from cycledistill._recompute import running_pass
from cycledistill._setup import Setup


def ignore(module: nn.Module, *_: Any) -> None:
    """What a hook becomes in a copy of its module: nothing, and gone after the first call."""
    if not torch.compiler.is_compiling():
        _detach_copy(module)


def _make_ignore() -> Callable[..., None]:
    return ignore


class _Hook:
    """A hook that belongs to one wrapper and is not copied or pickled along with its module."""

    def __init__(self, setup: Setup, index: int = -1) -> None:
        self.setup = setup
        self.index = index

    def __reduce__(self) -> tuple[Callable[[], Any], tuple[()]]:
        return _make_ignore, ()


class BeforeBlock(_Hook):
    """Tells the pass that a block is about to run."""

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """See `torch.nn.Module.register_forward_pre_hook`."""
        running, again = running_pass(self.setup)
        if running is None:
            return None
        if again:
            return running.before_block_again(self.index, args, kwargs)
        return running.before_block(self.index, args, kwargs)


class AfterBlock(_Hook):
    """Tells the pass that a block has run."""

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        """See `torch.nn.Module.register_forward_hook`."""
        running, again = running_pass(self.setup)
        if running is None:
            return None
        if again:
            return running.after_block_again(self.index, output)
        return running.after_block(self.index, output)


class HoldStatistics(_Hook):
    """Keeps a batch norm before the stack from counting a batch again in a later cycle's call."""

    def __call__(self, module: _BatchNorm, args: tuple[Any, ...]) -> None:
        """See `torch.nn.Module.register_forward_pre_hook`."""
        call = self.setup.running.current()
        if not isinstance(call, OrdinaryCall) or not module.training:
            return
        if call.phase == "stem" and call.cycle > 1 and module.track_running_stats:
            module.track_running_stats = False
            call.held.append(module)


class _CheckpointedForward:
    """A block's ``forward`` that, in a pass, keeps its inputs alone and is run again.

    It is set on the instance, inside the block's hooks, so the hooks run once.
    """

    def __init__(self, setup: Setup, forward: Any) -> None:
        self.setup = setup
        self.forward = forward

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if torch.is_grad_enabled():
            running, _ = running_pass(self.setup)
            if running is not None and running.checkpoints_blocks:
                return checkpoint(self.forward, *args, use_reentrant=False, **kwargs)
        return self.forward(*args, **kwargs)


class Attachment:
    """Our hooks on a model: there while somebody holds them, and kept in their places."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self._lock = threading.Lock()
        self._holders = 0
        self._handles: list[RemovableHandle] = []
        self._places: list[tuple[nn.Module, int, int]] = []

    def hold(self, plain: nn.Module) -> None:
        """Put the hooks on, unless they are there already."""
        with self._lock:
            self._holders += 1
            if self._holders == 1:
                self._put_on(plain)

    def release(self) -> None:
        """Take them off, unless somebody else holds them."""
        with self._lock:
            self._holders -= 1
            if not self._holders:
                self._take_off()

    def keep_places(self) -> None:
        """Put ours first in front of each block and last behind it."""
        for block, first, last in self._places:
            before, behind = block._forward_pre_hooks, block._forward_hooks
            if first in before and next(iter(before)) != first:
                others = {key: before.pop(key) for key in [*before] if key != first}
                before.update(others)
            if last in behind and next(reversed(behind)) != last:
                behind[last] = behind.pop(last)

    def _put_on(self, plain: nn.Module) -> None:
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
                self._handles.append(module.register_forward_pre_hook(HoldStatistics(setup)))

    def _take_off(self) -> None:
        for handle in self._handles:
            handle.remove()
        for block in self.setup.stack.blocks:
            _give_back(block)
        self._handles, self._places = [], []


class NoFastPath:
    """Switches the fused path of `torch.nn.TransformerEncoder` off for a while.

    In eval mode it may turn padded tokens into a nested tensor, whose tokens cannot be replaced.
    The switch is torch's and applies to all threads, so uses are counted.
    """

    _lock = threading.Lock()
    _users = 0
    _before = True

    def __enter__(self) -> None:
        with self._lock:
            if NoFastPath._users == 0:
                NoFastPath._before = torch.backends.mha.get_fastpath_enabled()
                torch.backends.mha.set_fastpath_enabled(False)
            NoFastPath._users += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            NoFastPath._users -= 1
            if NoFastPath._users == 0:
                torch.backends.mha.set_fastpath_enabled(NoFastPath._before)


def detach_copies(model: nn.Module) -> None:
    """Remove what hooks left behind when their module was copied or unpickled."""
    for module in model.modules():
        _detach_copy(module)
        _give_back(module)


def detach_stale(blocks: Iterable[nn.Module]) -> None:
    """Remove hooks of a wrapper that is no more from blocks that are in no other."""
    for block in blocks:
        _detach(block, lambda hook: isinstance(hook, _Hook))


def _detach_copy(module: nn.Module) -> None:
    _detach(module, lambda hook: hook is ignore)


def _detach(module: nn.Module, chosen: Callable[[Any], bool]) -> None:
    hooks: dict[int, Any]
    for hooks, marks in (
        (module._forward_pre_hooks, module._forward_pre_hooks_with_kwargs),
        (module._forward_hooks, module._forward_hooks_with_kwargs),
    ):
        for key in [key for key, hook in hooks.items() if chosen(hook)]:
            del hooks[key]
            marks.pop(key, None)


def _give_back(block: nn.Module) -> None:
    ours = block.__dict__.get("forward")
    if isinstance(ours, _CheckpointedForward):
        del block.forward
        if ours.forward != block.forward:  # it had one of its own on the instance
            block.forward = ours.forward
