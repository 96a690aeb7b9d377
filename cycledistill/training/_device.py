"""Accelerate's object for a run, and deterministic algorithms."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState

from cycledistill.training._config import TrainConfig


def make_accelerator(config: TrainConfig) -> Accelerator:
    """An ``Accelerator`` of the run's own; an earlier run's in this process leaves no trace.

    Raises:
        ValueError: The launcher started several processes, and Accelerate does not see them.
    """
    GradientState._reset_state()
    alone = not PartialState._shared_state or PartialState().num_processes == 1
    AcceleratorState._reset_state(reset_partial_state=alone)
    accelerator = Accelerator(
        cpu=config.device == "cpu" or not torch.accelerator.is_available(),
        mixed_precision=config.mixed_precision,
        log_with=list(config.trackers) or None,
        project_dir=str(config.output_dir),
    )
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if accelerator.num_processes != started:
        raise ValueError(
            f"the launcher started {started} processes (WORLD_SIZE), and Accelerate set up "
            f"{accelerator.num_processes} on device {accelerator.device.type}"
        )
    return accelerator


@contextlib.contextmanager
def deterministic_algorithms(wanted: bool) -> Iterator[None]:
    """Allow only algorithms that give the same bits each time, inside the block."""
    if not wanted:
        yield
        return
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.backends.cudnn.benchmark = before[1]
