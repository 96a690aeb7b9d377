"""Checks shared by both codecs."""

from __future__ import annotations

import torch
from torch import Tensor


def check_size(name: str, size: tuple[int, int]) -> tuple[int, int]:
    """The size as two ints, or a `ValueError` that names the argument."""
    values = tuple(int(side) for side in size)
    if len(values) != 2 or min(values) < 1 or values != tuple(size):
        raise ValueError(f"{name}: expected (width, height), two positive integers, got {size}")
    return values[0], values[1]


def check_keypoints(keypoints: Tensor, visible: Tensor | None) -> tuple[Tensor, Tensor]:
    """Finite keypoints `[B, K, 2]` and weights `[B, K]` between 0 and 1, both float32 or float64.

    Coordinates that are not finite come back as 0 with weight 0.
    """
    if keypoints.ndim != 3 or keypoints.shape[-1] != 2:
        raise ValueError(f"keypoints: expected [B, K, 2], got {list(keypoints.shape)}")
    if visible is not None and visible.shape != keypoints.shape[:2]:
        raise ValueError(
            f"visible: expected [B, K] = {list(keypoints.shape[:2])} like the keypoints, "
            f"got {list(visible.shape)}"
        )
    if keypoints.dtype != torch.float64:
        keypoints = keypoints.float()
    finite = keypoints.isfinite().all(dim=-1)
    weights = finite.to(keypoints.dtype)
    if visible is not None:
        weights = weights * visible.to(keypoints).clamp(0, 1)
    return keypoints.where(finite[..., None], keypoints.new_zeros(())), weights
