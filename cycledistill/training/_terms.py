"""The loss terms of a step: kept where they are, read together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from cycledistill import CycleLosses
from cycledistill.training._parallel import Losses

Terms: TypeAlias = "tuple[list[str], Tensor] | dict[str, float]"
"""Names and values `[n]` on the device; numbers, of a loss that offers nothing else."""


def terms_of(losses: Losses) -> Terms:
    """The terms of a microbatch, cut from its graph and not read yet where that can be had."""
    return losses.flat() if isinstance(losses, CycleLosses) else losses.scalars()


def read_terms(kept: Sequence[Terms]) -> list[dict[str, float]]:
    """The terms of several microbatches as numbers, in one transfer from the device.

    Example:
        >>> read_terms([(["loss"], torch.tensor([0.5])), {"loss": 2.0}])
        [{'loss': 0.5}, {'loss': 2.0}]
    """
    waiting = [terms[1] for terms in kept if isinstance(terms, tuple)]
    numbers = iter(torch.cat(waiting).tolist() if waiting else ())
    return [
        {name: next(numbers) for name in terms[0]} if isinstance(terms, tuple) else terms
        for terms in kept
    ]
