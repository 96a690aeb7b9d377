"""What a task is to the lab, and what tasks have in common."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from cycledistill import CycleWrapper
from experiments._config import RunConfig
from experiments._image_run import ImageRun

SplitName = Literal["train", "val", "test"]


class Batch(NamedTuple):
    """A training step's data.

    Attributes:
        inputs: What the model is called with, augmented and normalised, `[B, ...]`.
        targets: What the task loss is called with behind a prediction.
    """

    inputs: Tensor
    targets: tuple[Any, ...]


class Task(Protocol):
    """Something to learn, in memory: one set to train, one to choose and one to report on.

    Attributes:
        num_samples: Training samples.
        example: One input of the model, `[1, ...]`.
        prediction_distance: Between the predictions of two cycles.
        parts: Parts of the sequence of tokens.
    """

    num_samples: int
    example: Tensor
    prediction_distance: str
    parts: Mapping[str, slice]

    @property
    def token_groups(self) -> Mapping[str, slice] | None:
        """Groups of tokens that are distilled apart; None for all together."""

    def model(self, config: RunConfig) -> nn.Module:
        """A new plain model; torch's generator gives its initial weights."""

    def loss(self, config: RunConfig) -> nn.Module:
        """A new task loss."""

    def teaching(self, loss: nn.Module) -> str | Callable[[Any, Any], Tensor]:
        """The distance from a frozen teacher's prediction; ``loss`` is the task's."""

    def batch(self, indices: Tensor) -> Batch:
        """Training samples `[B]`, on the device of ``indices``."""

    def scores(self, model: CycleWrapper, split: SplitName, cycles: int) -> list[float]:
        """Percent after 1, 2, ... ``cycles`` cycles of a wrapped model in eval mode."""


def first_samples(config: RunConfig | ImageRun, found: int) -> slice:
    """The part of ``found`` training samples that a run trains on.

    Raises:
        ValueError: There are fewer than the run wants.
    """
    wanted = config.train_samples
    if wanted is not None and not 1 <= wanted <= found:
        raise ValueError(
            f"train_samples={wanted} is not within 1 and the {found:,} training samples of "
            f"{config.task}"
        )
    return slice(0, wanted)


def data_folder(name: str) -> Path:
    """The folder ``name`` in that of the environment's CYCLEDISTILL_DATA.

    Raises:
        FileNotFoundError: The variable is not set.
    """
    root = os.environ.get("CYCLEDISTILL_DATA")
    if not root:
        raise FileNotFoundError(f"set CYCLEDISTILL_DATA to the folder that has {name}/")
    return Path(root) / name


def every_tenth(count: int) -> tuple[Tensor, Tensor]:
    """Indices to train on and to choose on: of a fixed random order every tenth is to choose."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    chosen = torch.arange(count) % 10 == 0
    return order[~chosen], order[chosen]
