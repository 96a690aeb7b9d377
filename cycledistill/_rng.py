"""The state of the random number generators."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from cycledistill._tree import map_leaves


class RngState:
    """A snapshot of the generators of torch (CPU and the GPUs in use), Python and NumPy.

    Args:
        own: Further generators, which a model holds or is given.
    """

    def __init__(self, own: Iterable[torch.Generator] = ()) -> None:
        self.own = [*own]
        self._own = [generator.get_state() for generator in self.own]
        self._cpu = torch.get_rng_state()
        used = torch.cuda.is_initialized() and not torch.cuda.is_current_stream_capturing()
        self._gpus = torch.cuda.get_rng_state_all() if used else []
        self._python = random.getstate()
        numpy: Any = sys.modules.get("numpy")
        self._numpy = None if numpy is None else numpy.random.get_state()

    def has_changed(self) -> bool:
        """Whether random numbers have been drawn since the snapshot."""
        now = RngState(self.own)
        before, after = ((rng._cpu, *rng._gpus, *rng._own) for rng in (self, now))
        same = all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
        if self._numpy is not None and now._numpy is not None:
            same = same and self._numpy[2] == now._numpy[2]  # the position in the sequence
            same = same and bool((self._numpy[1] == now._numpy[1]).all())
        return not same or self._python != now._python

    def restore(self, only_torch: bool = False) -> None:
        """Set the generators back: all, or those of torch, as activation checkpointing does."""
        torch.set_rng_state(self._cpu)
        for generator, state in zip(self.own, self._own, strict=True):
            generator.set_state(state)
        if self._gpus:
            torch.cuda.set_rng_state_all(self._gpus)
        if not only_torch:
            random.setstate(self._python)
            if self._numpy is not None:
                sys.modules["numpy"].random.set_state(self._numpy)


def replaying(function: Callable[..., Any], own: Iterable[torch.Generator]) -> Callable[..., Any]:
    """A function for a checkpoint that draws the same numbers when it runs again for the backward.

    Torch restores only some of its own generators.
    """
    if torch.compiler.is_compiling():
        return function
    before, first = RngState(own), True

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


def generators_in(tree: Any) -> tuple[torch.Generator, ...]:
    """The generators of torch in a tree, or among the attributes of a model's modules."""
    found: list[Any] = []
    if isinstance(tree, nn.Module):
        found = [value for module in tree.modules() for value in vars(module).values()]
    else:
        map_leaves(found.append, tree)
    return tuple({id(one): one for one in found if isinstance(one, torch.Generator)}.values())
