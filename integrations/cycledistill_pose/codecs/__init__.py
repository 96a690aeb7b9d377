"""Keypoints to the targets of a network, and its outputs back to keypoints."""

from __future__ import annotations

from cycledistill_pose.codecs._choose import codec_for
from cycledistill_pose.codecs._flip import flip_heatmaps, flip_regression
from cycledistill_pose.codecs._heatmap import HeatmapCodec
from cycledistill_pose.codecs._regression import RegressionCodec

__all__ = ["HeatmapCodec", "RegressionCodec", "codec_for", "flip_heatmaps", "flip_regression"]
