"""Mean squared error of heatmaps."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cycledistill_pose._checks import check_shape


class HeatmapMSELoss(nn.Module):
    """Mean squared error of heatmaps, each keypoint with its weight.

    >>> import torch
    >>> heatmaps, target = torch.ones(1, 2, 64, 48), torch.zeros(1, 2, 64, 48)
    >>> HeatmapMSELoss()(heatmaps, target, torch.tensor([[1.0, 0.0]]))
    tensor(0.5000)

    The loss is the mean over batch, keypoints and pixels of ((prediction - target) * weight)^2,
    as in Xiao et al., "Simple Baselines for Human Pose Estimation and Tracking", ECCV 2018.
    Keypoints of weight 0 count as 0, not as absent: the mean is over all K keypoints.

    It is computed in float32 (or float64, where an argument is), under autocast too: the square of
    a small difference is below what half precision can hold.
    """

    def forward(self, heatmaps: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        """The loss, a scalar from 0.

        Args:
            heatmaps: `[B, K, H, W]`, the network's output.
            target: `[B, K, H, W]`, from `HeatmapCodec.encode`.
            weight: `[B, K]`, from `HeatmapCodec.encode`. None: 1 for all.

        Raises:
            ValueError: The shapes do not match.
        """
        sizes = check_shape("heatmaps", heatmaps, "B K H W")
        check_shape("target", target, "B K H W", **sizes)
        if weight is not None:
            check_shape("weight", weight, "B K", **sizes)
        with torch.autocast(heatmaps.device.type, enabled=False):
            dtype = torch.promote_types(heatmaps.dtype, torch.float32)
            difference = heatmaps.to(dtype) - target
            if weight is not None:
                difference = difference * weight.to(difference.dtype)[..., None, None]
            return difference.square().mean()
