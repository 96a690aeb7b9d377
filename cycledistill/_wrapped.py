"""Which models are wrapped, so that none is wrapped twice."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Collection, Sequence

from torch import nn

from cycledistill._facade import Facade

_wrappers: weakref.WeakKeyDictionary[nn.Module, weakref.ref[Facade]] = weakref.WeakKeyDictionary()


def note_wrapped(model: nn.Module, wrapper: Facade) -> None:
    """Note that a model is wrapped, for as long as its wrapper lives."""
    _wrappers[model] = weakref.ref(wrapper)


def forget_wrapped(model: nn.Module) -> None:
    """Note that it is no longer."""
    _wrappers.pop(model, None)


def refuse_wrapper_within(model: nn.Module) -> None:
    """Neither the model nor a part of it may be a wrapper.

    Raises:
        ValueError: One is.
    """
    for name, module in model.named_modules():
        if isinstance(module, Facade):
            where = f"its module {name!r}" if name else "it"
            raise ValueError(
                f"cannot wrap {type(model).__name__}: {where} is a CycleWrapper already. "
                "Call unwrap() first"
            )


def refuse_wrapped(model: nn.Module, blocks: Sequence[nn.Module]) -> None:
    """Neither the model nor one of its blocks may be in another wrapper.

    Raises:
        ValueError: It is.
    """
    if _wrapped_with(model, blocks) is None:
        return
    gc.collect()  # a wrapper that nobody holds any longer
    found = _wrapped_with(model, blocks)
    if found is not None:
        part = "this" if found is model else "a part of this"
        raise ValueError(
            f"{part} {type(model).__name__} is inside another CycleWrapper. Call its unwrap() "
            "first, or assign to its num_cycles"
        )


def refuse_names_of_ours(model: nn.Module, ours: Collection[str]) -> None:
    """A child or tensor of the model must not have a name of the wrapper's own.

    Raises:
        ValueError: One has.
    """
    for name in (*model._modules, *model._parameters, *model._buffers):
        if name in ours:
            raise ValueError(
                f"{type(model).__name__} has a child named {name!r}, which is a name of "
                "CycleWrapper itself: expected another name for the child"
            )


def _wrapped_with(model: nn.Module, blocks: Sequence[nn.Module]) -> nn.Module | None:
    """A wrapped model that is this one, or has some of these blocks."""
    for other, known in list(_wrappers.items()):
        wrapper = known()
        if wrapper is None:
            continue
        if other is model or not set(blocks).isdisjoint(wrapper._setup.stack.blocks):
            return other
    return None
