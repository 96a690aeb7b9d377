"""Multiply-accumulates of a pose network on one image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

import cycledistill
from cycledistill import MacCount

__all__ = ["MacCount", "count_macs"]


def count_macs(model: nn.Module, input_size: Sequence[int] | None = None) -> MacCount:
    """Count the multiply-accumulates that one image costs in evaluation mode.

    >>> from cycledistill_pose.models import create_model
    >>> macs = count_macs(create_model("tokenpose_s_v1"))
    >>> [round(value / 1e9, 2) for value in macs]
    [2.38, 2.73]

    It is `cycledistill.count_macs` on a black image.

    Args:
        model: A model of this package, a cycled one (which costs one cycle), or any other that
            takes images `[B, 3, H, W]`.
        input_size: `(width, height)` of the image in px; by default `model.input_size`.

    Raises:
        ValueError: `input_size` is not given and the model has none.
    """
    size = input_size or getattr(getattr(model, "model", model), "input_size", None)
    if size is None:
        raise ValueError(
            f"{type(model).__name__} has no input_size; give input_size=(width, height)"
        )
    width, height = size
    parameter = next(model.parameters())
    image = torch.zeros(1, 3, height, width, device=parameter.device, dtype=parameter.dtype)
    return cycledistill.count_macs(model, image)
