"""Where a model runs."""

from __future__ import annotations

import os
from typing import Literal

import torch

Device = Literal["auto", "cpu", "cuda", "mps"]


def find_device(name: Device) -> torch.device:
    """The device of this name; "auto" is the machine's accelerator, or else the CPU.

    Raises:
        ValueError: It is not there; the text says why.
    """
    if name == "auto":
        found = torch.accelerator.is_available() and torch.accelerator.current_accelerator()
        return found or torch.device("cpu")
    if name == "mps" and not torch.backends.mps.is_available():
        raise ValueError("device=mps was asked for, but this machine has no Metal GPU")
    if name == "cuda" and not torch.cuda.is_available():
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        reason = f"PyTorch sees no GPU (CUDA_VISIBLE_DEVICES={visible!r}; try nvidia-smi)"
        if torch.version.cuda is None and getattr(torch.version, "hip", None) is None:
            reason = f"PyTorch {torch.__version__} is built without GPU support"
        raise ValueError(f"device=cuda was asked for, but {reason}")
    return torch.device(name)
