"""Several cycles in calls that bypass the wrapper, such as those of ``generate``."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn


@contextmanager
def forwards_patched(
    plain: nn.Module, blocks: Sequence[nn.Module], call: Callable[..., Any]
) -> Iterator[None]:
    """Route calls of the model, and of each part of it that runs all of its blocks, to ``call``.

    A model that generates calls itself. A model that wraps another one (such as an adapter's) lets
    the inner model generate, which then calls itself.

    Args:
        plain: The model.
        blocks: Its blocks.
        call: Called with the module, its own ``forward``, and the arguments.
    """
    with ExitStack() as exits:
        for module in plain.modules():
            if set(blocks).issubset(module.modules()) and not isinstance(module, nn.ModuleList):
                exits.enter_context(_forward_patched(module, call))
        yield


class _Routed:
    """A module's ``forward`` that goes to ``call``; in copies and pickles, the module's own."""

    def __init__(self, module: nn.Module, call: Callable[..., Any]) -> None:
        functools.update_wrapper(self, module.forward)  # first, since it takes its attributes
        self._module, self._call, self._own = module, call, module.forward

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._call(self._module, self._own, args, kwargs)

    def __reduce__(self) -> tuple[Any, ...]:
        return _itself, (self._own,)


def _itself(value: Any) -> Any:
    return value


@contextmanager
def _forward_patched(module: nn.Module, call: Callable[..., Any]) -> Iterator[None]:
    own = module.__dict__.get("forward")
    module.__dict__["forward"] = _Routed(module, call)
    try:
        yield
    finally:
        if own is None:
            del module.__dict__["forward"]
        else:
            module.__dict__["forward"] = own
