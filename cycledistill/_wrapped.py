"""Which models are wrapped, so that none is wrapped twice."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Collection, Sequence

import torch
from torch import nn

from cycledistill._facade import PLAIN, TEACHER, Facade

_wrappers: weakref.WeakKeyDictionary[nn.Module, weakref.ref[Facade]] = weakref.WeakKeyDictionary()


def register(model: nn.Module, wrapper: Facade) -> None:
    """Mark a model as wrapped, for as long as its wrapper lives."""
    _wrappers[model] = weakref.ref(wrapper)


def unregister(model: nn.Module) -> None:
    """Mark a model as no longer wrapped."""
    _wrappers.pop(model, None)


def check_no_wrapper_within(model: nn.Module) -> None:
    """Check that neither the model nor a part of it is a wrapper.

    Raises:
        ValueError: One of them is.
    """
    for name, module in model.named_modules():
        if isinstance(module, Facade):
            where = f"its module {name!r}" if name else "it"
            raise ValueError(
                f"cannot wrap {type(model).__name__}: {where} is a CycleWrapper already. "
                "Call unwrap() first"
            )


def check_not_wrapped(model: nn.Module, blocks: Sequence[nn.Module]) -> None:
    """Check that neither the model nor one of its blocks is in another wrapper.

    Raises:
        ValueError: One of them is.
    """
    if _wrapped_with(model, blocks) is None:
        return
    gc.collect()  # a wrapper without references
    found = _wrapped_with(model, blocks)
    if found is not None:
        part = "this" if found is model else "a part of this"
        raise ValueError(
            f"{part} {type(model).__name__} is inside another CycleWrapper. Call its unwrap() "
            "first, or assign to its num_cycles"
        )


def check_names_are_free(model: nn.Module, reserved: Collection[str]) -> None:
    """Check that no child or tensor of the model has a name that the wrapper uses.

    Raises:
        ValueError: One has.
    """
    for name in (*model._modules, *model._parameters, *model._buffers):
        if name in reserved:
            raise ValueError(
                f"{type(model).__name__} has a child named {name!r}, which is a name of "
                "CycleWrapper itself: expected another name for the child"
            )


def check_children(wrapper: Facade) -> None:
    """Check that no tool has put children into the wrapper itself, where the model lacks them.

    Raises:
        RuntimeError: One has.
    """
    if torch.compiler.is_compiling():
        return
    found = [name for name in wrapper._modules if name not in (PLAIN, TEACHER)]
    if found:
        raise RuntimeError(
            f"a tool replaced {', '.join(found)} in the _modules of the CycleWrapper, not of its "
            "model: apply it to the plain model, and wrap the result"
        )


def _wrapped_with(model: nn.Module, blocks: Sequence[nn.Module]) -> nn.Module | None:
    """A wrapped model that is this one, or shares blocks with it."""
    for other, known in list(_wrappers.items()):
        wrapper = known()
        if wrapper is None:
            continue
        if other is model or not set(blocks).isdisjoint(wrapper._setup.stack.blocks):
            return other
    return None
