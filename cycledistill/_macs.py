"""Multiply-accumulates (MACs) of a model, with and without attention products."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from cycledistill._mode import NoFastPath, eval_mode, frozen


def _grouped(tokens: Any, *_: Any, out_shape: Any, **__: Any) -> int:
    """The operations of a linear layer of all experts in one."""
    return 2 * int(tokens[-1]) * math.prod(out_shape)


def _recurrent(tokens: Tensor, *others: Any, out_val: Any, **__: Any) -> int:
    """Those of a recurrent layer, each of whose matrices is multiplied with each token."""
    given = tree_leaves(others[:2])  # two matrices, or a list of all weights
    weights = [t for t in given if isinstance(t, Tensor) and t.ndim == 2]
    return 2 * sum(w.numel() for w in weights) * tokens.shape[:-1].numel()


_recurrent._get_raw = True  # type: ignore[attr-defined]

# What torch's counter does not know.
_FORMULAS: dict[Any, Any] = {
    torch.ops.aten.mkldnn_rnn_layer: _recurrent,
    torch.ops.aten._cudnn_rnn: _recurrent,
}
if hasattr(torch.ops.aten, "_grouped_mm"):  # not in older versions of torch
    _FORMULAS[torch.ops.aten._grouped_mm] = _grouped


class MacCount(NamedTuple):
    """Multiply-accumulates of one forward pass.

    Attributes:
        without_attention_products: Convolutions and linear layers only, which is what pose papers
            report as "GFLOPs".
        with_attention_products: The same, plus the two matrix products inside each attention
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
    >>> count_macs(cycled, tokens) == plain  # eval mode runs one cycle
    True
    >>> count_macs(cycled, tokens, method="forward_cycles", num_cycles=2) == MacCount(
    ...     *(2 * count for count in plain)
    ... )
    True

    The model runs once under torch's own flop counter. Batched matrix products are counted as
    attention, unless one of the factors is a parameter or a copy of one. Norms, activations and
    additions are not counted.

    Args:
        model: Any model, or a `CycleWrapper`.
        *inputs: The model's arguments, such as one image `[1, 3, H, W]`.
        method: The method to call: ``"forward"``, or ``"forward_cycles"`` of a `CycleWrapper` for
            the forward pass of a train step, in which every cycle has its prediction.
        **kwargs: Keyword arguments of the call, such as ``num_cycles``.
    """
    weights = {_storage(parameter) for parameter in model.parameters()}
    products = 0

    def batched(*tensors: Tensor, out_val: Tensor, **_: Any) -> int:
        nonlocal products
        first, second = tensors[-2:]
        flops = 2 * out_val.numel() * first.shape[-1]
        if weights.isdisjoint((_storage(first), _storage(second))):
            products += flops
        return flops

    copies: list[Tensor] = []  # kept, so that no other tensor gets their storage

    def copied(tensor: Tensor, *_: Any, out_val: Tensor, **__: Any) -> int:
        if _storage(tensor) in weights:
            weights.add(_storage(out_val))
            copies.append(out_val)
        return 0

    batched._get_raw = copied._get_raw = True  # type: ignore[attr-defined]
    own: dict[Any, Any] = dict.fromkeys((torch.ops.aten.bmm, torch.ops.aten.baddbmm), batched)
    own.update(dict.fromkeys((torch.ops.aten.clone, torch.ops.aten._to_copy), copied))
    counter = FlopCounterMode(display=False, custom_mapping={**_FORMULAS, **own})
    verified = getattr(model, "_verified", True)
    if not verified:  # do not count the comparison that batched cycles run on the first batch
        model._verified = True  # type: ignore[assignment]
    try:
        # The operation of the fast path is not counted, and torch's counter fails on modules that
        # take a part of a parameter.
        with (
            NoFastPath(),
            eval_mode(model),
            frozen(model),
            torch.no_grad(),
            sdpa_kernel(SDPBackend.MATH),
            counter,
        ):
            getattr(model, method)(*inputs, **kwargs)
    finally:
        if not verified:
            model._verified = False  # type: ignore[assignment]
    total = counter.get_total_flops()
    return MacCount((total - products) // 2, total // 2)


def _storage(tensor: Tensor) -> int:
    """The same number for tensors that share their memory."""
    number: int = tensor.untyped_storage()._cdata
    return number
