"""Multiply-accumulates of a model, counted in both conventions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

_BATCHED_PRODUCTS = ("bmm", "baddbmm")


class MacCount(NamedTuple):
    """Multiply-accumulates of one image.

    Attributes:
        without_attention_products: Convolutions and linear layers. This is what the "GFLOPs" of
            pose papers count.
        with_attention_products: Those, and the two matrix products inside each attention
            (queries by keys, weights by values).
    """

    without_attention_products: int
    with_attention_products: int


def count_macs(model: nn.Module, input_size: Sequence[int] | None = None) -> MacCount:
    """Count the multiply-accumulates that one image costs in evaluation mode.

    >>> from cycledistill_pose.models import create_model
    >>> macs = count_macs(create_model("tokenpose_s_v1"))
    >>> [round(value / 1e9, 2) for value in macs]
    [2.38, 2.73]

    The model runs once on a black image under torch's own flop counter. Batched matrix products
    are taken to be those of the attention. Norms, activations and additions do not count.

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
    modes = {module: module.training for module in model.modules()}
    parameter = next(model.parameters())
    image = torch.zeros(1, 3, height, width, device=parameter.device, dtype=parameter.dtype)
    counter = FlopCounterMode(display=False)
    model.eval()
    try:
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
            model(image)
    finally:
        for module, training in modes.items():
            module.training = training
    flops = counter.get_flop_counts()["Global"]
    products = sum(n for op, n in flops.items() if str(op).split(".")[-1] in _BATCHED_PRODUCTS)
    total = sum(flops.values())
    return MacCount((total - products) // 2, total // 2)
