"""What a cycled model returns in training."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor


class CycleOutput(NamedTuple):
    """Predictions and tokens of every cycle, first cycle first.

    Attributes:
        predictions: What the plain model returns, made from each cycle's tokens.
        tokens: The tokens as they leave the last block of each cycle, `[B, T, D]` each.
    """

    predictions: tuple[Any, ...]
    tokens: tuple[Tensor, ...]
