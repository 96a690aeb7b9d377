"""The codec of a network."""

from __future__ import annotations

from typing import Any

from cycledistill_pose.codecs import HeatmapCodec, RegressionCodec
from cycledistill_pose.models import TokenPose, TokenReg


def codec_for(model: TokenPose | TokenReg, **options: Any) -> HeatmapCodec | RegressionCodec:
    """What turns keypoints into a network's targets, and its outputs into keypoints.

    Args:
        model: The plain network.
        **options: Of a `HeatmapCodec`, such as ``sigma`` and ``method``; a regression network's
            codec has none, and leaves them aside.
    """
    if isinstance(model, TokenReg):
        return RegressionCodec(model.input_size)
    return HeatmapCodec(model.input_size, model.heatmap_size, **options)
