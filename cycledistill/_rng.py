"""The state of the random number generators."""

from __future__ import annotations

import random
import sys
from typing import Any

import torch


class RngState:
    """A snapshot of the generators of torch (CPU and the GPUs in use), Python and NumPy."""

    def __init__(self) -> None:
        self._cpu = torch.get_rng_state()
        used = torch.cuda.is_initialized() and not torch.cuda.is_current_stream_capturing()
        self._gpus = torch.cuda.get_rng_state_all() if used else []
        self._python = random.getstate()
        numpy: Any = sys.modules.get("numpy")
        self._numpy = None if numpy is None else numpy.random.get_state()

    def has_changed(self) -> bool:
        """Whether random numbers have been drawn since the snapshot."""
        now = RngState()
        same = all(
            torch.equal(one, other)
            for one, other in zip((self._cpu, *self._gpus), (now._cpu, *now._gpus), strict=True)
        )
        if self._numpy is not None and now._numpy is not None:
            same = same and self._numpy[2] == now._numpy[2]  # the position in the sequence
            same = same and bool((self._numpy[1] == now._numpy[1]).all())
        return not same or self._python != now._python

    def restore(self, only_torch: bool = False) -> None:
        """Set the generators back: all, or those of torch, as activation checkpointing does."""
        torch.set_rng_state(self._cpu)
        if self._gpus:
            torch.cuda.set_rng_state_all(self._gpus)
        if not only_torch:
            random.setstate(self._python)
            if self._numpy is not None:
                sys.modules["numpy"].random.set_state(self._numpy)
