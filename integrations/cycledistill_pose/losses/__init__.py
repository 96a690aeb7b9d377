"""Losses of pose networks, to be given to `CycleDistillLoss` as the task loss."""

from __future__ import annotations

from cycledistill_pose.losses._heatmap import HeatmapMSELoss
from cycledistill_pose.losses._real_nvp import RealNVP
from cycledistill_pose.losses._rle import RLELoss, as_truth

__all__ = ["HeatmapMSELoss", "RLELoss", "RealNVP", "as_truth"]
