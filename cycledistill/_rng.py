"""The state of the random number generators."""

from __future__ import annotations

import pickle
import random
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes

from cycledistill._tree import map_leaves

_KINDS = {
    "torch._C.Generator",
    "random.Random",
    "numpy.random._generator.Generator",
    "numpy.random.mtrand.RandomState",
}
_OF_MODULES = frozenset(vars(nn.Module()))
_FEW = 64  # entries of a list or dict that is looked into; one of class names has thousands


class RngState:
    """A snapshot of the generators of torch (CPU and the GPUs in use), Python and NumPy.

    Args:
        own: Further generators, which a model holds or is given.
    """

    def __init__(self, own: Iterable[Any] = ()) -> None:
        self.own = [*own]
        numpy: Any = sys.modules.get("numpy")
        of_numpy = [] if numpy is None else [numpy.random]
        self._generators = [torch.default_generator, random, *self.own, *of_numpy]
        self._states = [_state(generator) for generator in self._generators]
        used = torch.cuda.is_initialized() and not torch.cuda.is_current_stream_capturing()
        self._gpus = torch.cuda.get_rng_state_all() if used else []

    def has_changed(self) -> bool:
        """Whether random numbers have been drawn since the snapshot."""
        now = RngState(self.own)
        pairs = [(self._states, now._states), (self._gpus, now._gpus)]
        return not all(_same(a, b) for pair in pairs for a, b in zip(*pair, strict=False))

    def restore(self, only_torch: bool = False) -> None:
        """Set the generators back: all, or those of torch, as activation checkpointing does."""
        for generator, state in zip(self._generators, self._states, strict=True):
            if isinstance(generator, torch.Generator) or not only_torch:
                _restore(generator, state)
        if self._gpus:
            torch.cuda.set_rng_state_all(self._gpus)


def replaying(function: Callable[..., Any], own: Iterable[Any], *inputs: Any) -> Callable[..., Any]:
    """A function for a checkpoint that draws the same numbers when it runs again for the backward.

    Torch restores only some of its own generators.

    Args:
        function: The function.
        own: Generators that the model holds.
        *inputs: What the function is called with, maybe with further generators.
    """
    if torch.compiler.is_compiling():
        return function
    before, first = RngState((*own, *generators_in(inputs))), True

    def run(*inputs: Any) -> Any:
        nonlocal first
        if first:
            first = False
            return function(*inputs)
        now = RngState(before.own)
        before.restore()
        try:
            return function(*inputs)
        finally:
            now.restore()

    return run


def generators_in(tree: Any) -> tuple[Any, ...]:
    """The generators in a tree, or those that a model's modules, or objects of theirs, hold."""
    found: list[Any] = []
    if isinstance(tree, nn.Module):
        found = _held([vars(module) for module in tree.modules()])
        found += _held([vars(one) for one in found if hasattr(one, "__dict__")])
    else:
        map_leaves(found.append, tree)
    return tuple({id(one): one for one in found if _is_generator(one)}.values())


def _held(attributes: Iterable[Mapping[str, Any]]) -> list[Any]:
    """Values of attributes, each once, and those in short lists, tuples and dicts."""
    pending = [value for one in attributes for key, value in one.items() if key not in _OF_MODULES]
    found: dict[int, Any] = {}
    while pending:
        value = pending.pop()
        if id(value) in found:
            continue
        found[id(value)] = value
        kind = type(value)
        if kind in (list, tuple, dict) and len(value) <= _FEW:
            pending += value.values() if kind is dict else value
    return [value for value in found.values() if not isinstance(value, (nn.Module, Tensor, type))]


def _is_generator(value: Any) -> bool:
    kind = type(value)  # not isinstance, of whose random.Random torch.compile fails
    return f"{kind.__module__}.{kind.__qualname__}" in _KINDS


def _state(generator: Any) -> Any:
    if hasattr(generator, "getstate"):
        return generator.getstate()
    if hasattr(generator, "get_state"):
        return generator.get_state()
    return generator.bit_generator.state


def _restore(generator: Any, state: Any) -> None:
    if hasattr(generator, "setstate"):
        generator.setstate(state)
    elif hasattr(generator, "set_state"):
        generator.set_state(state)
    else:
        generator.bit_generator.state = state


def _same(before: Any, after: Any) -> bool:
    if isinstance(before, Tensor):
        with _disable_current_modes():  # of fake tensors, which states are not
            return torch.equal(before, after)
    return pickle.dumps(before) == pickle.dumps(after)
