"""Model and loss as one module, and the loss terms that it computes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor, nn

from cycledistill import CycleLosses


class Losses(Protocol):
    """What a loss must offer to the loop; ``cycledistill.CycleLosses`` does."""

    @property
    def total(self) -> Tensor:
        """Scalar to minimise, the mean over the samples of the batch."""

    def scalars(self) -> dict[str, float]:
        """Its terms by name, such as ``{"loss": ..., "task/1": ..., "tokens/all/1": ...}``."""


ForwardLoss = Callable[[Any, Any, Any], "tuple[Losses, int]"]


class LossModule(nn.Module):
    """Model and criterion in one ``forward``.

    This way data parallelism averages the gradients of both, and mixed precision applies to both.
    """

    def __init__(self, model: nn.Module, criterion: nn.Module, forward_loss: ForwardLoss) -> None:
        super().__init__()
        self.model = model
        self.criterion = criterion
        self._forward_loss = forward_loss

    def forward(self, batch: Any) -> tuple[Losses, int]:
        """Losses of a batch and its number of samples."""
        return self._forward_loss(self.model, self.criterion, batch)


Terms: TypeAlias = "tuple[list[str], Tensor]"
"""Names, and values `[n]`."""


def terms_of(losses: Losses) -> Terms:
    """The terms of a microbatch, without their graph; of ``CycleLosses``, still on the device."""
    if isinstance(losses, CycleLosses):
        return losses.flat()
    terms = losses.scalars()
    return list(terms), torch.tensor(list(terms.values()), dtype=torch.float64)


def read_terms(kept: Sequence[Terms]) -> list[dict[str, float]]:
    """The terms of several microbatches as numbers, in one transfer from the device.

    Example:
        >>> read_terms([(["loss"], torch.tensor([0.5])), (["loss"], torch.tensor([2.0]))])
        [{'loss': 0.5}, {'loss': 2.0}]
    """
    numbers = iter(torch.cat([values for _, values in kept]).tolist())
    return [{name: next(numbers) for name in names} for names, _ in kept]


def bad_terms(scalars: Mapping[str, float]) -> list[str]:
    """Names of the terms that are not finite, the sum of all ("loss") last.

    Example:
        >>> bad_terms({"loss": float("nan"), "task/1": 0.5, "task/2": float("inf")})
        ['task/2', 'loss']
    """
    bad = [name for name, value in scalars.items() if not math.isfinite(value)]
    return sorted(bad, key=lambda name: name == "loss")
