"""The fixed two-dimensional sine embedding."""

from __future__ import annotations

import math

import torch
from einops import repeat
from torch import Tensor


def sine_position_embedding(height: int, width: int, dim: int) -> Tensor:
    """Embed every cell of a grid: half of the channels tell its row, half its column.

    >>> sine_position_embedding(16, 16, 192).shape
    torch.Size([1, 256, 192])

    Rows are counted 1..height, divided by the last one (plus 1e-6) and multiplied by 2 pi;
    columns likewise. Channels 2i and 2i + 1 of a half are the sine and the cosine of that angle
    divided by `10000 ** (2 i / (dim / 2))`. The first half encodes rows.

    Returns `[1, height * width, dim]`, float32, cells in row-major order; `dim` must be divisible
    by 4.
    """
    if dim % 4:
        raise ValueError(f"a 2-D sine embedding needs dim divisible by 4, got dim={dim}")
    half = dim // 2
    pair = torch.arange(half, dtype=torch.float32) // 2
    period = 10000 ** (2 * pair / half)
    rows = repeat(_waves(height, period), "h d -> 1 (h w) d", w=width)
    columns = repeat(_waves(width, period), "w d -> 1 (h w) d", h=height)
    return torch.cat([rows, columns], dim=-1)


def _waves(length: int, period: Tensor) -> Tensor:
    """`[length, half]`: sine in the even channels, cosine in the odd ones."""
    angle = torch.arange(1, length + 1, dtype=torch.float32) / (length + 1e-6) * (2 * math.pi)
    phase = angle[:, None] / period
    return torch.stack([phase[:, 0::2].sin(), phase[:, 1::2].cos()], dim=-1).flatten(1)
