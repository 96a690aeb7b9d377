"""Module hooks that connect a model's blocks, and its batch norms, to the cycler."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.hooks import RemovableHandle

from cycledistill._cycler import Cycler


def ignore(module: nn.Module, *_: Any) -> None:
    """What a hook becomes in a copy of its module: nothing, and gone after the first call."""
    if not torch.compiler.is_compiling():
        _detach_copy(module)


class _Hook:
    """A hook that belongs to one cycler and is not copied or pickled along with its module."""

    def __init__(self, cycler: Cycler, index: int) -> None:
        self.cycler = cycler
        self.index = index

    def __reduce__(self) -> tuple[Callable[[], Any], tuple[()]]:
        return _make_ignore, ()


def _make_ignore() -> Callable[..., None]:
    return ignore


class BeforeBlock(_Hook):
    """Notes what a block is called with."""

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """See `torch.nn.Module.register_forward_pre_hook`."""
        self.cycler.before_block(self.index, args, kwargs)


class AfterBlock(_Hook):
    """Runs the later cycles behind the last block."""

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        """See `torch.nn.Module.register_forward_hook`."""
        return self.cycler.after_block(self.index, output)


class RefuseBatchNorm(_Hook):
    """Refuses a folded batch in front of a batch norm: its statistics would mix the cycles."""

    def __init__(self, cycler: Cycler, name: str) -> None:
        super().__init__(cycler, -1)
        self.name = name

    def __call__(self, module: _BatchNorm, args: tuple[Any, ...]) -> None:
        """See `torch.nn.Module.register_forward_pre_hook`."""
        forward = self.cycler.current
        if forward is None or forward.folded is None or forward.cycles_run == 1:
            return
        if forward.keep_all and (module.training or module.running_mean is None):
            raise ValueError(
                f"{self.name} ({type(module).__name__}) behind the stack mixes the samples of a "
                "batch in training, and with them the cycles. Pass head_per_cycle=True to run it "
                "once for each cycle, or put it into eval mode, or use a norm that does not mix "
                "samples"
            )


class HoldStatistics(_Hook):
    """Keeps a batch norm before the stack from counting a batch again in a later cycle's call."""

    def __call__(self, module: _BatchNorm, args: tuple[Any, ...]) -> None:
        """See `torch.nn.Module.register_forward_pre_hook`."""
        switch = self.cycler.switch
        if module.training and switch.answers is not None and not switch.answered:
            module.track_running_stats = False


class ReleaseStatistics(_Hook):
    """Lets it count again."""

    def __call__(self, module: _BatchNorm, args: tuple[Any, ...], output: Any) -> None:
        """See `torch.nn.Module.register_forward_hook`."""
        if self.cycler.switch.answers is not None:
            module.track_running_stats = module.running_mean is not None


def attach(model: nn.Module, cycler: Cycler, head_per_cycle: bool) -> list[RemovableHandle]:
    """Put the hooks on a model; returns their handles."""
    handles = []
    inside = {module for block in cycler.stack.blocks for module in block.modules()}
    for index, block in enumerate(cycler.stack.blocks):
        handles.append(
            block.register_forward_pre_hook(
                BeforeBlock(cycler, index), with_kwargs=True, prepend=True
            )
        )
        handles.append(block.register_forward_hook(AfterBlock(cycler, index)))
    for name, module in model.named_modules():
        if not isinstance(module, _BatchNorm) or module in inside:
            continue
        if head_per_cycle:
            handles.append(module.register_forward_pre_hook(HoldStatistics(cycler, -1)))
            handles.append(module.register_forward_hook(ReleaseStatistics(cycler, -1)))
        else:
            handles.append(module.register_forward_pre_hook(RefuseBatchNorm(cycler, name)))
    return handles


def comes_last(block: nn.Module) -> bool:
    """Whether our hook is the last behind a block that FSDP2 shards.

    FSDP2 must have closed a block before our hook runs it again: torch 2.7 and 2.8 lose the
    parameters for the backward pass otherwise.
    """
    fsdp = sys.modules.get("torch.distributed.fsdp")
    if fsdp is None or not isinstance(block, fsdp.FSDPModule):
        return True
    return isinstance(next(reversed(block._forward_hooks.values())), AfterBlock)


def detach_copies(model: nn.Module) -> None:
    """Remove what hooks left behind when their module was copied or unpickled."""
    for module in model.modules():
        _detach_copy(module)


def _detach_copy(module: nn.Module) -> None:
    for hooks, marks in (
        (module._forward_pre_hooks, module._forward_pre_hooks_with_kwargs),
        (module._forward_hooks, module._forward_hooks_with_kwargs),
    ):
        for key in [key for key, hook in hooks.items() if hook is ignore]:
            del hooks[key]
            marks.pop(key, None)
