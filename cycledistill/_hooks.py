"""Module hooks that connect a model's blocks and batch norms to the current call.

The hooks do nothing unless a call of their wrapper runs in this thread or is being recomputed.
Ours is the first hook before a block and the last one after it, no matter when others were
registered: the hooks of users, and those of FSDP2, which must have resharded a block before it runs
again, belong to the block.
"""

from __future__ import annotations

import threading
import weakref
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint
from torch.utils.hooks import RemovableHandle

from cycledistill._caches import rewinding
from cycledistill._call import CycleCall
from cycledistill._rng import replaying
from cycledistill._setup import Setup


class _Ours:
    """A hook, or another addition to a module, that belongs to one wrapper.

    Copies and pickles of its module hold one without a wrapper.
    """

    def __init__(self, attachment: Attachment | None = None, index: int = -1) -> None:
        self.setup = None if attachment is None else attachment.setup
        self.index = index
        self.owner = None if attachment is None else weakref.ref(attachment)

    def current(self, module: nn.Module) -> tuple[CycleCall | None, bool]:
        """The call that the module runs in, and whether it is being recomputed."""
        if self.setup is not None:
            return self.setup.calls.of_block()
        if not torch.compiler.is_compiling():
            detach_stale(module)
        return None, False

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), ()


class BeforeBlock(_Ours):
    """Tells the current call that a block is about to run."""

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """See `torch.nn.Module.register_forward_pre_hook`."""
        current, recomputed = self.current(module)
        if current is None:
            return None
        return current.before_block(self.index, args, kwargs, recomputed)


class AfterBlock(_Ours):
    """Tells the current call that a block has run."""

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        """See `torch.nn.Module.register_forward_hook`."""
        current, recomputed = self.current(module)
        return None if current is None else current.after_block(self.index, output, recomputed)


class FreezeBatchNorm(_Ours):
    """Freezes the statistics of a batch norm in the stem, which sees the batch in every cycle."""

    def __call__(self, module: _BatchNorm, args: tuple[Any, ...]) -> None:
        """See `torch.nn.Module.register_forward_pre_hook`."""
        current, recomputed = self.current(module)
        if current is None or recomputed or current.cycle == 1 or current.blocks_run:
            return
        if module.training and module.track_running_stats:
            module.track_running_stats = False
            current.frozen_norms.append(module)


class _CheckpointedForward(_Ours):
    """A block's ``forward``, checkpointed while a call asks for it.

    It is set on the instance, so it runs inside of the block's hooks, which run once.
    """

    def __init__(self, forward: Any, attachment: Attachment | None = None) -> None:
        super().__init__(attachment)
        self.forward = forward

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.setup is not None and torch.is_grad_enabled():
            current, _ = self.setup.calls.of_block()
            if current is not None and current.checkpoints_blocks:
                return self._checkpointed(args, kwargs)
        return self.forward(*args, **kwargs)

    def _checkpointed(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Torch restores the generators of the devices of the positional arguments only."""
        names, forward = tuple(kwargs), self.forward

        def run(*values: Any) -> Any:
            number = len(values) - len(names)
            return forward(*values[:number], **dict(zip(names, values[number:], strict=True)))

        inputs = (*args, *kwargs.values())
        own = self.setup.generators if self.setup is not None else ()
        run = replaying(rewinding(run, *inputs), own, *inputs)
        return checkpoint(run, *inputs, use_reentrant=False)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.forward,)


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

    def hold_in_backward(self, plain: nn.Module, *_: Any) -> None:
        """Keep the hooks to the end of the backward pass that is running: blocks may run again."""
        self.hold(plain)
        engine: Any = torch.autograd.Variable._execution_engine
        engine.queue_callback(self.release)

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
                BeforeBlock(self, index), with_kwargs=True, prepend=True
            )
            last = block.register_forward_hook(AfterBlock(self, index))
            self._handles += [first, last]
            self._places.append((block, first.id, last.id))
            if setup.activation_checkpointing is not None:
                block.forward = _CheckpointedForward(block.forward, self)
        for module in plain.modules():
            if isinstance(module, _BatchNorm) and module not in inside:
                self._handles.append(module.register_forward_pre_hook(FreezeBatchNorm(self)))

    def _detach(self) -> None:
        for handle in self._handles:
            handle.remove()
        for block in self.setup.stack.blocks:
            _restore_forward(block)
        self._handles, self._places = [], []


def detach_stale(*modules: nn.Module) -> None:
    """Remove what is left of other wrappers, in copies of their modules or after their end."""
    for module in modules:
        hooks: dict[int, Any]
        for hooks, with_kwargs in (
            (module._forward_pre_hooks, module._forward_pre_hooks_with_kwargs),
            (module._forward_hooks, module._forward_hooks_with_kwargs),
        ):
            stale = [key for key, hook in hooks.items() if _is_stale(hook)]
            for key in stale:
                del hooks[key]
                with_kwargs.pop(key, None)
        if _is_stale(module.__dict__.get("forward")):
            _restore_forward(module)


def _is_stale(addition: Any) -> bool:
    """Whether it is ours, and has no wrapper or one that was garbage-collected."""
    if not isinstance(addition, _Ours):
        return False
    return addition.owner is None or addition.owner() is None


def _restore_forward(block: nn.Module) -> None:
    ours = block.__dict__.get("forward")
    if isinstance(ours, _CheckpointedForward):
        del block.forward
        if ours.forward != block.forward:  # the instance had a forward of its own
            block.forward = ours.forward
