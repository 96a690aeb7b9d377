"""Where a network runs."""

from __future__ import annotations

from typing import Literal

import torch

Device = Literal["auto", "cpu", "cuda", "mps"]


def find_device(name: Device) -> torch.device:
    """The device of this name; "auto" is the machine's accelerator, or else the CPU."""
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if name == "cpu" or (name == "auto" and found is None):
        return torch.device("cpu")
    if found is None or name not in ("auto", found.type):
        here = "" if found is None else f" or {found.type}"
        raise ValueError(f"device: expected auto or cpu{here} on this machine, got {name!r}")
    return found
