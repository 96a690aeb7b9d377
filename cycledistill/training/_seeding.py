"""Random numbers that depend on the place in the run, not on what ran before."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import torch


def mix_seed(*numbers: int) -> int:
    """A seed in ``[0, 2**63)`` in which every bit depends on every number (splitmix64).

    Example:
        >>> mix_seed(0, 1) == mix_seed(0, 1) != mix_seed(1, 0)
        True
    """
    mask = (1 << 64) - 1
    state = 0
    for number in numbers:
        state = (state + (number & mask) + 0x9E3779B97F4A7C15) & mask
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & mask
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & mask
        state ^= state >> 31
    return state >> 1


def seed_everything(seed: int) -> None:
    """Seed the global generators of Python, NumPy and PyTorch, on all devices."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def seed_step(seed: int, step: int, microbatch: int, rank: int) -> None:
    """Seed every global generator for one microbatch.

    PyTorch's CPU generator gets the same seed on every process, so that all of them choose the
    same number of cycles; Python's, NumPy's and the GPU's differ from process to process.
    """
    shared = mix_seed(seed, step, microbatch)
    seed_everything(mix_seed(shared, rank))
    torch.default_generator.manual_seed(shared)


def seed_cpu(*numbers: int) -> None:
    """Seed the CPU's global generators."""
    seed = mix_seed(*numbers)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)


@contextlib.contextmanager
def states_kept() -> Iterator[None]:
    """Restore the states of the CPU's global generators after the block."""
    states = random.getstate(), np.random.get_state(), torch.default_generator.get_state()
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.default_generator.set_state(states[2])
