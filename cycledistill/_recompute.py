"""Blocks that are recomputed in the backward pass.

A model that checkpoints its activations calls its blocks twice: in the forward pass, and again
inside of ``backward`` to recompute what was not kept. The recomputation must see the same tokens
as the forward pass, including tokens that our hooks replaced. Which pass is being recomputed
follows from the current autograd node: a thread numbers its nodes in the order of their creation,
so each pass owns a range of numbers. A record lives as long as the graph of its pass.

`torch.utils.checkpoint` with ``use_reentrant=True`` runs the forward pass without gradients inside
of an autograd function, and gradients flow to the inputs of that function only. Tokens that a hook
replaces inside of it would get no gradient, so this raises an error where it matters.
"""

from __future__ import annotations

import sys
import threading
import weakref
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch._C._autograd import _get_sequence_nr
from torch.autograd.function import FunctionCtx

if TYPE_CHECKING:
    from cycledistill._setup import Pass, Setup


class PassRecord:
    """A finished pass and its range of autograd nodes."""

    def __init__(self) -> None:
        self.done: Pass | None = None
        self.thread = threading.get_ident()
        self.first = self.end = _get_sequence_nr()


class PassRecords:
    """The passes whose graphs are alive."""

    def __init__(self) -> None:
        self._alive: weakref.WeakSet[PassRecord] = weakref.WeakSet()

    def begin(self) -> PassRecord | None:
        """Note where a pass begins; None where it cannot be recomputed."""
        if torch.compiler.is_compiling() or not torch.is_grad_enabled():
            return None
        return PassRecord()

    def end(self, record: PassRecord | None, done: Pass, tokens: Tensor) -> None:
        """Note where a pass ended, for as long as the graph of its tokens lives."""
        if record is None or tokens.grad_fn is None:
            return
        record.done, record.end = done, _get_sequence_nr()
        tokens.grad_fn.metadata[self] = record  # type: ignore[index]
        self._alive.add(record)

    def find(self) -> Pass | None:
        """The pass that is being recomputed, or None."""
        if torch.compiler.is_compiling():
            return None
        node = torch._C._current_autograd_node()
        if node is None:
            return None
        number, here = node._sequence_nr(), threading.get_ident()
        found = [record for record in self._alive if record.first <= number < record.end]
        found.sort(key=lambda record: record.thread != here)
        return found[0].done if found else None


def pass_of(setup: Setup) -> tuple[Pass | None, bool]:
    """The pass that a block is called in, and whether it is being recomputed."""
    current = setup.current.get()
    if current is not None:
        return current, False
    recomputed = setup.records.find()
    return recomputed, recomputed is not None


def inside_reentrant_checkpoint(with_gradients: bool) -> bool:
    """Whether a pass that started with gradients is inside of a reentrant checkpoint.

    Torch has no function for it, so this looks for an autograd function in the call stack. A
    compiled graph has no reentrant checkpoints.
    """
    if torch.compiler.is_compiling() or torch.is_grad_enabled() or not with_gradients:
        return False
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name == "forward" and frame.f_code.co_argcount:
            first = frame.f_locals.get(frame.f_code.co_varnames[0])
            if isinstance(first, FunctionCtx):
                return True
        frame = frame.f_back  # type: ignore[assignment]
    return False
