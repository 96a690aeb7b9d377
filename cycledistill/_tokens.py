"""Tokens in the output of a block, and measures of how they change."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cycledistill._distance import at_least_float32
from cycledistill._tree import map_tensors


def tokens_of(output: Any) -> Tensor:
    """The tokens in a block's output: the output itself, or its first item.

    Raises:
        TypeError: The first item is not a tensor.
    """
    while not isinstance(output, Tensor):
        if isinstance(output, (tuple, list)) and output:
            output = output[0]
        elif isinstance(output, dict) and output:
            output = next(iter(output.values()))
        else:
            raise TypeError(
                "expected a block that returns its tokens as a tensor, or first in a tuple, got "
                f"{type(output).__name__}"
            )
    return output


def with_tokens(output: Any, tokens: Tensor) -> Any:
    """A block's output with the tokens replaced."""
    replaced = False

    def first(tensor: Tensor) -> Tensor:
        nonlocal replaced
        if replaced:
            return tensor
        replaced = True
        return tokens

    return map_tensors(first, output)


def relative_changes(before: Tensor, after: Tensor, batch_dim: int) -> Tensor:
    """How far each sample's tokens moved, relative to their norm, `[B]`."""
    dims = [dim for dim in range(before.ndim) if dim != batch_dim]
    change = torch.linalg.vector_norm((after - before).float(), dim=dims)
    size = torch.linalg.vector_norm(before.float(), dim=dims)
    return change.detach() / size.detach().clamp_min(torch.finfo(torch.float32).tiny)


def normed(tokens: Tensor, like: Tensor | None) -> Tensor:
    """Tokens `[..., D]` scaled to a root mean square of 1, or to that of ``like``'s tokens."""
    scale = 1 / _rms(tokens) if like is None else _rms(like) / _rms(tokens)
    return (tokens * scale).to(tokens.dtype)


def _rms(tokens: Tensor) -> Tensor:
    wide = at_least_float32(tokens)
    return wide.square().mean(-1, keepdim=True).add(torch.finfo(wide.dtype).eps).sqrt()


def angles(before: Tensor, after: Tensor) -> Tensor:
    """Angle between each token `[..., D]` before and after, in degrees from 0 to 180 `[...]`."""
    tiny = torch.finfo(torch.float32).tiny
    one, other = (
        tokens / torch.linalg.vector_norm(tokens, dim=-1, keepdim=True).clamp_min(tiny)
        for tokens in (before.float(), after.float())
    )
    # Unlike the arc cosine, this is exact for small angles.
    difference, total = (torch.linalg.vector_norm(t, dim=-1) for t in (one - other, one + other))
    return (2 * torch.atan2(difference, total)).rad2deg()
