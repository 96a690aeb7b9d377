"""Modes of a model, and of torch, that hold inside of a ``with`` block."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Put a model into eval mode, then restore the mode of each of its modules."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Let no parameter require a gradient, then those that did."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


class NoFastPath:
    """Disable the fused path of `torch.nn.TransformerEncoder`.

    In eval mode the fused path may turn padded tokens into a nested tensor, whose tokens cannot be
    replaced. The setting is global to all threads, so uses are counted.
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
