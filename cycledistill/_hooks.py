"""Module hooks that connect a model's blocks, and its batch norms, to the cycler."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
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


class BeforeBatchNorm(_Hook):
    """Refuses, or takes apart, a folded batch in front of a batch norm behind the stack.

    The statistics of a batch norm in training would mix the cycles. Where the caller asked for
    one head call for each cycle, the first cycle's samples go through here and the others follow
    in `AfterBatchNorm`.
    """

    def __init__(self, cycler: Cycler, name: str, per_cycle: bool) -> None:
        super().__init__(cycler, -1)
        self.name = name
        self.per_cycle = per_cycle

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> Any:
        """See `torch.nn.Module.register_forward_pre_hook`."""
        forward = self.cycler.current
        if forward is None or forward.folded is None or forward.cycles_run == 1:
            return None
        if not forward.keep_all or not (module.training or module.running_mean is None):
            return None
        if not self.per_cycle:
            raise ValueError(
                f"{self.name} ({type(module).__name__}) behind the stack mixes the samples of a "
                "batch in training, and with them the cycles. Pass head_per_cycle=True to run it "
                "once for each cycle, or put it into eval mode, or use a norm that does not mix "
                "samples"
            )
        cycles = args[0].chunk(forward.cycles_run)
        forward.later_norm_inputs = cycles[1:]
        return (cycles[0], *args[1:])


class AfterBatchNorm(_Hook):
    """Runs a batch norm behind the stack on the second and later cycles' samples."""

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        """See `torch.nn.Module.register_forward_hook`."""
        forward = self.cycler.current
        if forward is None or not forward.later_norm_inputs:
            return None
        later, forward.later_norm_inputs = forward.later_norm_inputs, ()
        return torch.cat([output, *(module.forward(samples) for samples in later)])


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
        if isinstance(module, _BatchNorm) and module not in inside:
            before = BeforeBatchNorm(cycler, name, head_per_cycle)
            handles.append(module.register_forward_pre_hook(before))
            handles.append(module.register_forward_hook(AfterBatchNorm(cycler, -1)))
    return handles


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
