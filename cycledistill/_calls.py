"""Which call of a wrapper a block runs in, also where it is recomputed in the backward pass.

A model that checkpoints its activations calls its blocks twice: in the forward pass, and again
inside of ``backward`` to recompute what was not kept. The recomputation must see the same tokens
as the forward pass, including tokens that our hooks replaced. Which call is being recomputed
follows from the current autograd node: a thread numbers its nodes in the order of their creation,
so each call owns a range of numbers. A record lives as long as the graph of its call.

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
    from cycledistill._call import CycleCall


class CallRecord:
    """A call and its range of autograd nodes."""

    def __init__(self) -> None:
        self.call: CycleCall | None = None
        self.thread = threading.get_ident()
        self.first = self.end = _get_sequence_nr()


class Calls:
    """The calls of one wrapper: one runs in each thread, and others may be recomputed.

    While torch compiles, the running call is kept in a plain attribute, which is None again after
    it: not every supported version of torch can trace assignments to a `threading.local`.
    """

    def __init__(self) -> None:
        self._traced: CycleCall | None = None
        self._local = threading.local()
        self._records: weakref.WeakSet[CallRecord] = weakref.WeakSet()

    def running(self) -> CycleCall | None:
        """The call that runs in this thread, or None."""
        if self._traced is not None:
            return self._traced
        running: CycleCall | None = getattr(self._local, "running", None)
        return running

    def run(self, call: CycleCall | None) -> CycleCall | None:
        """Begin a call or, with None, end it; returns the previous one."""
        previous = self.running()
        if torch.compiler.is_compiling():
            self._traced = call
        else:
            self._local.running = call
        return previous

    def of_block(self) -> tuple[CycleCall | None, bool]:
        """The call that a block runs in, and whether it is being recomputed."""
        running, node = self.running(), None
        if running is None and not torch.compiler.is_compiling():
            node = torch._C._current_autograd_node()
        if node is None:
            return running, False
        number, here = node._sequence_nr(), threading.get_ident()
        found = [record for record in self._records if record.first <= number < record.end]
        found.sort(key=lambda record: record.thread != here)
        return (found[0].call, True) if found else (None, False)

    def begin_record(self) -> CallRecord | None:
        """Note where a call begins; None where it cannot be recomputed."""
        if torch.compiler.is_compiling() or not torch.is_grad_enabled():
            return None
        return CallRecord()

    def end_record(self, record: CallRecord | None, call: CycleCall, tokens: Tensor) -> None:
        """Note where a call ended, for as long as the graph of its tokens lives."""
        if record is None or tokens.grad_fn is None:
            return
        record.call, record.end = call, _get_sequence_nr()
        tokens.grad_fn.metadata[self] = record  # type: ignore[index]
        self._records.add(record)


def inside_reentrant_checkpoint(with_gradients: bool) -> bool:
    """Whether a call that started with gradients is inside of a reentrant checkpoint.

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
