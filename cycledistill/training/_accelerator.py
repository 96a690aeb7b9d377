"""The device and the processes of a run."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState

from cycledistill._device import find_device
from cycledistill.training._config import TrainConfig


def check_launcher_and_device(config: TrainConfig) -> TrainConfig:
    """Check launcher and device against the options; returns the config with the launcher's.

    ``accelerate launch --use_fsdp`` means ``parallel="fsdp2"``. The request is removed from the
    environment, because sharding is done here, the same way for every launcher and device, and
    Accelerate must not shard again.

    Raises:
        ValueError: The launcher and the options disagree, or the device is missing or lacks what
            the options need.
    """
    launched = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if launched not in ("no", config.mixed_precision):
        raise ValueError(
            f"accelerate launch was told mixed_precision={launched}, the run has "
            f"{config.mixed_precision}: give the script --mixed-precision {launched}"
        )
    for variable in ("ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_MEGATRON_LM"):
        if os.environ.get(variable, "false").lower() == "true":
            raise ValueError(
                f"{variable}=true: DeepSpeed and Megatron are not supported; use DDP or FSDP2"
            )
    steps = os.environ.get("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "1")
    if steps != "1":
        raise ValueError(
            f"ACCELERATE_GRADIENT_ACCUMULATION_STEPS={steps} would divide the loss: unset it, and "
            f"give the script --accumulate {steps}"
        )
    if os.environ.pop("ACCELERATE_USE_FSDP", "false").lower() == "true":
        version = os.environ.get("FSDP_VERSION", "1")
        if version != "2":
            raise ValueError(
                f"accelerate launch asked for FSDP version {version}; only version 2 is supported: "
                "pass --fsdp_version 2, or start without --use_fsdp and give the script "
                "--parallel fsdp2"
            )
        config = dataclasses.replace(config, parallel="fsdp2")
    device = find_device(config.device)
    if device.type == "cuda":
        _check_gpu(config)
    if config.mixed_precision == "fp16" and device.type != "cuda":
        raise ValueError("mixed_precision=fp16 needs a CUDA GPU, and there is none; use bf16 or no")
    if config.mixed_precision == "fp16" and config.parallel == "fsdp2":
        raise ValueError("mixed_precision=fp16 does not go with parallel=fsdp2; use bf16")
    return config


def _check_gpu(config: TrainConfig) -> None:
    local_rank, count = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if local_rank >= count:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        raise ValueError(
            f"process {local_rank} of this machine has no GPU: PyTorch sees {count} (start at most "
            f"{count} processes here; CUDA_VISIBLE_DEVICES={visible!r})"
        )
    if config.mixed_precision == "bf16" and not torch.cuda.is_bf16_supported():
        name = torch.cuda.get_device_name(local_rank)
        raise ValueError(f"GPU {local_rank} ({name}) has no bf16; use mixed_precision=fp16 or no")


def make_accelerator(config: TrainConfig) -> Accelerator:
    """A fresh ``Accelerator``, without state of an earlier run in this process.

    Raises:
        ValueError: The launcher started several processes, and Accelerate does not see them.
    """
    GradientState._reset_state()
    alone = not PartialState._shared_state or PartialState().num_processes == 1
    AcceleratorState._reset_state(reset_partial_state=alone)
    accelerator = Accelerator(
        cpu=find_device(config.device).type == "cpu",
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
    """Use only algorithms that give the same bits each time, inside the block."""
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
