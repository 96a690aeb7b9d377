"""Random numbers that depend on the place in the run, not on what ran before."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import torch

from cycledistill.training._sampler import mix_seed


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
    own = mix_seed(shared, rank)
    seed_everything(own)
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
