"""Multiply-accumulates of a model, counted in both conventions."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from cycledistill._mode import eval_mode

_BATCHED_PRODUCTS = ("bmm", "baddbmm")


class MacCount(NamedTuple):
    """Multiply-accumulates of one forward pass.

    Attributes:
        without_attention_products: Convolutions and linear layers. This is what the "GFLOPs" of
            pose papers count.
        with_attention_products: Those, and the two matrix products inside each attention
            (queries by keys, weights by values).
    """

    without_attention_products: int
    with_attention_products: int


def count_macs(model: nn.Module, *inputs: Any, method: str = "forward", **kwargs: Any) -> MacCount:
    """Count the multiply-accumulates of ``model(*inputs)`` in eval mode.

    >>> import torch
    >>> from torch import nn
    >>> from cycledistill import CycleWrapper
    >>> layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    >>> model = nn.TransformerEncoder(layer, num_layers=3, enable_nested_tensor=False)
    >>> tokens = torch.zeros(1, 5, 8)
    >>> plain, cycled = count_macs(model, tokens), CycleWrapper(model)
    >>> count_macs(cycled, tokens) == plain  # in use, one cycle runs
    True
    >>> count_macs(cycled, tokens, method="forward_cycles", num_cycles=2) == MacCount(
    ...     *(2 * count for count in plain)
    ... )
    True

    The model runs once under torch's own flop counter. Batched matrix products are taken to be
    those of the attention. Norms, activations and additions do not count.

    Args:
        model: Any model, or a `CycleWrapper`.
        *inputs: What it is called with, such as one image `[1, 3, H, W]`.
        method: What is called: ``"forward"``, or ``"forward_cycles"`` of a `CycleWrapper` for a
            forward pass of training, each cycle with its prediction.
        **kwargs: Keyword arguments of the call, such as ``num_cycles``.
    """
    fast_path = torch.backends.mha.get_fastpath_enabled()
    counter = FlopCounterMode(display=False)
    verified = getattr(model, "_verified", True)  # of batched cycles: the comparison does not count
    torch.backends.mha.set_fastpath_enabled(False)  # its fused operation is not counted
    try:
        if not verified:
            model._verified = True  # type: ignore[assignment]
        with eval_mode(model), torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
            getattr(model, method)(*inputs, **kwargs)
    finally:
        if not verified:
            model._verified = False  # type: ignore[assignment]
        torch.backends.mha.set_fastpath_enabled(fast_path)
    flops = counter.get_flop_counts().get("Global", {})
    products = sum(n for op, n in flops.items() if str(op).split(".")[-1] in _BATCHED_PRODUCTS)
    total = sum(flops.values())
    return MacCount((total - products) // 2, total // 2)
