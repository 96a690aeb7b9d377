"""What is recorded of a run, whatever has trained it."""

from __future__ import annotations

import functools
import platform
import subprocess
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Protocol

import torch

ROOT = Path(__file__).resolve().parents[1]


class Run(Protocol):
    """A config with a key."""

    @property
    def key(self) -> str:
        """What names it."""

    @property
    def seed(self) -> int:
        """Of the run."""

    def as_dict(self) -> dict[str, Any]:
        """All fields."""


def record(
    config: Run,
    revision: str,
    device: torch.device,
    budget: Mapping[str, Any],
    seconds: float,
    metrics: Mapping[str, float],
    diverged: str = "",
) -> dict[str, Any]:
    """The record of a finished run.

    Args:
        config: The run.
        revision: See `commit`, as the run began.
        device: What it was trained on.
        budget: What training and use cost.
        seconds: Time that it took, by the wall's clock.
        metrics: Of the last step's weights.
        diverged: Why there are none, or "".
    """
    return {
        "key": config.key,
        "config": config.as_dict(),
        "seed": config.seed,
        "commit": revision,
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "torch": torch.__version__,
        "device": f"{platform.machine()} {_words(device)}",
        "threads": torch.get_num_threads(),
        "budget": {"resumed": False, **budget, "wall_seconds": round(seconds, 1)},
        "metrics": dict(metrics),
        "diverged": diverged,
    }


def _words(device: torch.device) -> str:
    """The GPU's name, or the kind of the device."""
    return f"{torch.cuda.get_device_name(device)}, TF32" if device.type == "cuda" else device.type


@functools.cache
def commit() -> str:
    """The checkout's commit, with a plus where the code that a run uses was changed since.

    Asked once, when the first run starts: what a process has loaded does not change under it.
    """
    paths = ["cycledistill", "integrations", ":(glob)experiments/*.py"]
    try:
        head = _git("rev-parse", "--short=12", "HEAD")
        return head + "+" * bool(_git("status", "--porcelain", "--", *paths))
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()
