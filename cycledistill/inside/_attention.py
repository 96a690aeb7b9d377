"""The attention weights that a fused kernel computes and does not return."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from cycledistill._find import find_stack
from cycledistill._wrapper import CycleWrapper


class AttentionMap(NamedTuple):
    """The attention of one block in one cycle.

    Attributes:
        cycle: The cycle, from 1.
        layer: The block's place in its stack, from 1.
        weights: `[B, heads, queries, keys]`; every row sums to one.
    """

    cycle: int
    layer: int
    weights: Tensor


def record_attention(
    model: nn.Module,
    *args: Any,
    blocks: str | Sequence[nn.Module] | None = None,
    **kwargs: Any,
) -> list[AttentionMap]:
    """Call `model(*args, **kwargs)` and return what its blocks attended to, in order.

    ```python
    cycled = CycleWrapper(timm.create_model("vit_tiny_patch16_224")).eval()
    maps = record_attention(cycled, images, num_cycles=2)
    maps[-1].weights  # [B, heads, T, T] of the last block in cycle 2
    ```

    While the model runs, each call of `scaled_dot_product_attention` inside its blocks is replaced
    by an explicit `softmax(QK^T * scale + mask) V`, so these weights produced the block's output.
    Tokens may be pruned between blocks: each map has its own size. Nothing stays on the model.

    Args:
        model: A plain model or a `CycleWrapper`, in eval mode.
        args: Passed to the model.
        blocks: Where the stack is, as for `CycleWrapper`. None: found.
        kwargs: Passed to the model, `num_cycles=` of a wrapper for example.

    Raises:
        ValueError: The model is in training mode, or its blocks never called
            `scaled_dot_product_attention` (timm's attention modules with `fused_attn=False`), or
            called it for windows of the tokens.
    """
    if model.training:
        raise ValueError("model: found training mode, expected eval mode; call model.eval() first")
    plain = model.plain if isinstance(model, CycleWrapper) else model
    stack = find_stack(plain, blocks)
    recorder = _Recorder()
    with torch.no_grad(), _marked(stack.blocks, recorder), recorder:
        model(*args, **kwargs)
    if not recorder.maps:
        raise ValueError(
            f"model: the {len(stack.blocks)} blocks found at {stack.path!r} did not call "
            "torch.nn.functional.scaled_dot_product_attention, expected one call in each; a timm "
            "model calls it where its attention modules have fused_attn=True"
        )
    return recorder.maps


class _Recorder(TorchFunctionMode):
    """Replaces fused attention by explicit attention, and records it for the running block."""

    def __init__(self) -> None:
        super().__init__()
        self.maps: list[AttentionMap] = []
        self.running: tuple[int, int] | None = None
        self.sizes: torch.Size | None = None  # B and T of its tokens, in any order, if known

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is not F.scaled_dot_product_attention or self.running is None:
            return func(*args, **kwargs)
        output, weights = _attend(*args, **kwargs)
        cycle, layer = self.running
        if self.sizes and (weights.ndim != 4 or weights.shape[0] not in (1, *self.sizes)):
            raise ValueError(
                f"attention of layer {layer}: expected [B, heads, queries, keys] of tokens that "
                f"begin with {[*self.sizes]}, got {[*weights.shape]}; attention in windows cannot "
                "be recorded"
            )
        self.maps.append(AttentionMap(cycle, layer, weights))
        return output


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    **options: Any,
) -> tuple[Tensor, Tensor]:
    """PyTorch's own explicit `scaled_dot_product_attention`: its output, and the weights."""
    if dropout_p:
        raise ValueError(f"attention dropout: found {dropout_p}, expected 0 while recording")
    if attn_mask is not None and attn_mask.dtype == torch.bool:  # which the call below would add
        attn_mask = query.new_zeros(()).where(attn_mask, -math.inf)
    return torch.ops.aten._scaled_dot_product_attention_math(
        query, key, value, attn_mask, is_causal=is_causal, **options
    )


@contextmanager
def _marked(blocks: Sequence[nn.Module], recorder: _Recorder) -> Iterator[None]:
    """Tell the recorder which block runs, in which cycle."""
    calls = [0] * len(blocks)

    def enter(index: int, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        calls[index] += 1
        tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
        recorder.sizes = tensors[0].shape[:2] if tensors else None
        recorder.running = (calls[index], index + 1)

    def leave(*_: Any) -> None:
        recorder.running = None

    with ExitStack() as hooks:
        for index, block in enumerate(blocks):
            hooks.enter_context(
                block.register_forward_pre_hook(partial(enter, index), with_kwargs=True)
            )
            # Before the wrapper's hook on the last block, which runs the stack again.
            hooks.enter_context(block.register_forward_hook(leave, prepend=True))
        yield
