"""Multiply-accumulates of a model, counted in both conventions."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from cycledistill._wrapper import CycleWrapper

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


def count_macs(
    model: nn.Module, *inputs: Any, num_cycles: int | None = None, **kwargs: Any
) -> MacCount:
    """Count the multiply-accumulates of ``model(*inputs)`` in eval mode.

    >>> import torch
    >>> from torch import nn
    >>> layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    >>> model = nn.TransformerEncoder(layer, num_layers=3, enable_nested_tensor=False)
    >>> tokens = torch.zeros(1, 5, 8)
    >>> plain = count_macs(model, tokens)
    >>> plain == count_macs(CycleWrapper(model), tokens)  # in use, one cycle runs
    True
    >>> count_macs(CycleWrapper(model), tokens, num_cycles=2) == MacCount(
    ...     *(2 * count for count in plain)
    ... )
    True

    The model runs once under torch's own flop counter. Batched matrix products are taken to be
    those of the attention. Norms, activations and additions do not count.

    Args:
        model: Any model, or a `CycleWrapper`.
        *inputs: What it is called with, such as one image `[1, 3, H, W]`.
        num_cycles: For a `CycleWrapper`, count a forward pass of training with so many cycles,
            each with its prediction. None: what runs in use, one cycle.
        **kwargs: Keyword arguments of the call.

    Raises:
        TypeError: `num_cycles` is given for a model that is not wrapped.
    """
    call: Any = model
    if num_cycles is not None:
        if not isinstance(model, CycleWrapper):
            raise TypeError(
                f"num_cycles is for a CycleWrapper, the model is a {type(model).__name__}"
            )
        call, kwargs = model.forward_cycles, {**kwargs, "num_cycles": num_cycles}
    modes = {module: module.training for module in model.modules()}
    fast_path = torch.backends.mha.get_fastpath_enabled()
    counter = FlopCounterMode(display=False)
    model.eval()
    torch.backends.mha.set_fastpath_enabled(False)  # its fused operation is not counted
    try:
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
            call(*inputs, **kwargs)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
        model.train(modes[model])
        for module, training in modes.items():
            module.training = training
    flops = counter.get_flop_counts().get("Global", {})
    products = sum(n for op, n in flops.items() if str(op).split(".")[-1] in _BATCHED_PRODUCTS)
    total = sum(flops.values())
    return MacCount((total - products) // 2, total // 2)
