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


@contextmanager
def _forward_patched(module: nn.Module, call: Callable[..., Any]) -> Iterator[None]:
    own, original = module.__dict__.get("forward"), module.forward

    @functools.wraps(original)
    def forward(*args: Any, **kwargs: Any) -> Any:
        return call(module, original, args, kwargs)

    module.__dict__["forward"] = forward
    try:
        yield
    finally:
        if own is None:
            del module.__dict__["forward"]
        else:
            module.__dict__["forward"] = own
