"""Keypoints and their visibility as both codecs take them."""

from __future__ import annotations

import torch
from torch import Tensor

from cycledistill_pose._checks import check_shape


def check_keypoints(keypoints: Tensor, visible: Tensor | None) -> tuple[Tensor, Tensor]:
    """Finite keypoints `[B, K, 2]` and weights `[B, K]` between 0 and 1, both float32 or float64.

    Coordinates that are not finite come back as 0 with weight 0.
    """
    sizes = check_shape("keypoints", keypoints, "B K 2")
    if keypoints.dtype != torch.float64:
        keypoints = keypoints.float()
    finite = keypoints.isfinite().all(dim=-1)
    weights = finite.to(keypoints.dtype)
    if visible is not None:
        check_shape("visible", visible, "B K", **sizes)
        weights = weights * visible.to(keypoints).clamp(0, 1)
    return keypoints.where(finite[..., None], keypoints.new_zeros(())), weights
