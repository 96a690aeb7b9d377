"""Tokens as blocks hand them on."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cycledistill._tree import map_tensors


def tokens_of(output: Any) -> Tensor:
    """The tokens in what a block returned: it, or the first thing in it."""
    while not isinstance(output, Tensor):
        if isinstance(output, (tuple, list)) and output:
            output = output[0]
        elif isinstance(output, dict) and output:
            output = next(iter(output.values()))
        else:
            raise TypeError(
                "a block must return its tokens as a tensor, or first in a tuple; got "
                f"{type(output).__name__}"
            )
    return output


def with_tokens(output: Any, tokens: Tensor) -> Any:
    """What a block returned, with other tokens in it."""
    replaced = False

    def first(tensor: Tensor) -> Tensor:
        nonlocal replaced
        if replaced:
            return tensor
        replaced = True
        return tokens

    return map_tensors(first, output)


def version_of(tensor: Tensor) -> int | None:
    """How often a tensor was changed in place; None where that is not counted."""
    if torch.compiler.is_compiling() or tensor.is_inference():
        return None
    return tensor._version


def unchanged(left: Tensor, version: int | None, entered: Tensor) -> bool:
    """Whether the tokens that enter a block are those that left the one before.

    Checkpointing and sharding pass on an alias, not the object itself.
    """
    if type(left) is not Tensor or type(entered) is not Tensor:
        return True
    alias = left is entered or (
        left.data_ptr() == entered.data_ptr()
        and left.shape == entered.shape
        and left.stride() == entered.stride()
    )
    return alias and (version is None or version == version_of(entered))


def relative_change(before: Tensor, after: Tensor, batch_dim: int) -> float:
    """Largest relative change of any sample's tokens."""
    dims = [dim for dim in range(before.ndim) if dim != batch_dim]
    change = torch.linalg.vector_norm((after - before).float(), dim=dims)
    size = torch.linalg.vector_norm(before.float(), dim=dims)
    return float((change / size.clamp_min(torch.finfo(torch.float32).tiny)).max())
