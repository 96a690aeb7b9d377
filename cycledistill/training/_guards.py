"""What is checked before the first step."""

from __future__ import annotations

import importlib.util
import os
import shutil
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from cycledistill.training._config import TrainConfig
from cycledistill.training._parallel import broadcast_value, gather_lists

SHARED_MEMORY = Path("/dev/shm")
PREFETCHED_BATCHES = 2


def check_options(config: TrainConfig) -> None:
    """Check device, launcher and trackers against the options.

    Raises:
        ValueError: Something asked for is missing or contradictory.
    """
    check_device(config)
    check_launcher(config)
    check_trackers(config)


def check_device(config: TrainConfig) -> None:
    """Check that the device that was asked for is there and works.

    Raises:
        ValueError: It is not; the text says what was found.
    """
    wants_cuda = config.device == "cuda" or (config.device == "auto" and torch.cuda.is_available())
    if wants_cuda:
        _check_cuda(config)
    if config.device == "mps" and not torch.backends.mps.is_available():
        raise ValueError("device=mps was asked for, but this machine has no Metal GPU")
    if config.mixed_precision == "fp16" and not wants_cuda:
        raise ValueError("mixed_precision=fp16 needs a CUDA GPU, and there is none; use bf16 or no")
    if config.mixed_precision == "fp16" and config.parallel == "fsdp2":
        raise ValueError("mixed_precision=fp16 does not go with parallel=fsdp2; use bf16")


def _check_cuda(config: TrainConfig) -> None:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if not torch.cuda.is_available():
        if torch.version.cuda is None and getattr(torch.version, "hip", None) is None:
            reason = f"PyTorch {torch.__version__} is built without GPU support"
        elif visible is not None:
            reason = f"PyTorch sees no GPU (CUDA_VISIBLE_DEVICES={visible!r})"
        else:
            reason = "PyTorch sees no GPU (is the driver loaded? `nvidia-smi` tells)"
        raise ValueError(f"device=cuda was asked for, but {reason}")
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    count = torch.cuda.device_count()
    if local_rank >= count:
        raise ValueError(
            f"process {local_rank} of this machine has no GPU: PyTorch sees {count} (start at most "
            f"{count} processes here; CUDA_VISIBLE_DEVICES={visible!r})"
        )
    name = torch.cuda.get_device_name(local_rank)
    try:
        (torch.ones(2, device=f"cuda:{local_rank}") + 1).sum().item()
    except RuntimeError as error:
        raise ValueError(
            f"GPU {local_rank} ({name}) cannot run this PyTorch ({torch.__version__}, for "
            f"{', '.join(torch.cuda.get_arch_list())}): {error}"
        ) from error
    if config.mixed_precision == "bf16" and not torch.cuda.is_bf16_supported():
        raise ValueError(f"GPU {local_rank} ({name}) has no bf16; use mixed_precision=fp16 or no")


def check_launcher(config: TrainConfig) -> None:
    """Check that what ``accelerate launch`` was told agrees with the options.

    Raises:
        ValueError: It does not.
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


def check_trackers(config: TrainConfig) -> None:
    """Check that the packages of the trackers are installed.

    Raises:
        ValueError: One is missing.
    """
    for tracker in config.trackers:
        if importlib.util.find_spec(tracker) is None:
            raise ValueError(
                f"trackers has {tracker!r}, which is not installed: pip install {tracker}"
            )


def check_optimizer(optimizer: Optimizer, model: nn.Module, criterion: nn.Module) -> None:
    """Check that the optimiser holds the trainable parameters of model and criterion, no others.

    Raises:
        ValueError: A parameter is missing, or unknown.
    """
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    known = {}
    for owner, module in (("model", model), ("criterion", criterion)):
        for name, parameter in module.named_parameters():
            known[id(parameter)] = (f"{owner}.{name}", parameter.requires_grad)
    missing = [name for key, (name, trains) in known.items() if trains and key not in held]
    if missing:
        raise ValueError(
            f"the optimizer lacks {len(missing)} trainable parameters: {', '.join(missing[:5])}"
            f"{', ...' if len(missing) > 5 else ''}. Give it those of model and criterion, or "
            "freeze these with requires_grad_(False)"
        )
    unknown = len(held - known.keys())
    if unknown:
        raise ValueError(
            f"the optimizer holds {unknown} parameters that belong neither to the model nor to the "
            "criterion; was it made for another copy of them?"
        )


def check_shared_memory(config: TrainConfig, sample: Any, num_processes: int) -> None:
    """Check that the batches that workers prepare fit into shared memory.

    Raises:
        ValueError: They do not; the text has the figures.
    """
    if config.num_workers == 0 or not SHARED_MEMORY.is_dir():
        return
    micro_batch = -(-config.batch_size // (config.accumulate * num_processes))
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    in_flight = config.num_workers * PREFETCHED_BATCHES * local
    needed = num_bytes(sample) * micro_batch * in_flight
    free = shutil.disk_usage(SHARED_MEMORY).free
    if free < needed:
        raise ValueError(
            f"{SHARED_MEMORY} has {free / 2**20:.0f} MiB free, and {config.num_workers} data "
            f"workers for each of {local} processes need about {needed / 2**20:.0f} MiB: lower "
            "num_workers (0 needs none) or give the container more (docker run --shm-size=8g)"
        )


def num_bytes(sample: Any) -> int:
    """Bytes of all tensors and arrays in a sample."""
    if isinstance(sample, Tensor):
        return sample.numel() * sample.element_size()
    if isinstance(sample, np.ndarray):
        return sample.nbytes
    if isinstance(sample, dict):
        return sum(num_bytes(item) for item in sample.values())
    if isinstance(sample, (tuple, list)):
        return sum(num_bytes(item) for item in sample)
    return 0


def check_output_dir(folder: Path, is_main: bool) -> None:
    """Make the folder and check that every process sees and may write the same one.

    Raises:
        ValueError: It cannot be written, or another process does not see it.
    """
    problem = None
    probe = folder / f".probe-{broadcast_value(uuid.uuid4().hex)}"
    if is_main:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            probe.touch()
        except OSError as error:
            problem = f"output_dir {folder} cannot be written: {error.strerror}"
    problem = broadcast_value(problem)
    if problem is not None:
        raise ValueError(problem)
    blind = sum(gather_lists([not probe.exists()]))
    if is_main:
        probe.unlink(missing_ok=True)
    if blind:
        raise ValueError(
            f"output_dir {folder} is not the same folder for all processes: {blind} of them do not "
            "see what the main process wrote. It must lie on a file system that all machines share"
        )
