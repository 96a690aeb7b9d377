"""Random numbers that depend on the place in the run, not on what ran before."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import torch

from cycledistill.training._sampler import mix_seed


def seed_everything(seed: int) -> None:
    """Seed the global generators of Python, NumPy and PyTorch."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def seed_step(seed: int, step: int, microbatch: int, process: int) -> None:
    """Seed every global generator for one microbatch.

    PyTorch's CPU generator gets the same seed on every process, so that all of them draw the same
    number of cycles; Python's, NumPy's and the GPU's differ from process to process.
    """
    shared = mix_seed(seed, step, microbatch)
    own = mix_seed(shared, process)
    random.seed(own)
    np.random.seed(own % 2**32)
    torch.default_generator.manual_seed(shared)
    if torch.cuda.is_available():
        torch.cuda.manual_seed(own)


@contextlib.contextmanager
def states_kept() -> Iterator[None]:
    """Put the states of the CPU's global generators back after the block."""
    states = random.getstate(), np.random.get_state(), torch.default_generator.get_state()
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.default_generator.set_state(states[2])


def seed_cpu(*numbers: int) -> None:
    """Seed the CPU's global generators."""
    seed = mix_seed(*numbers)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)


@contextlib.contextmanager
def seeded(*numbers: int) -> Iterator[None]:
    """Seed the CPU's global generators inside the block and put their states back after it."""
    with states_kept():
        seed_cpu(*numbers)
        yield
