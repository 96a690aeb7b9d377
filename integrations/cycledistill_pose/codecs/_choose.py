"""The codec of a network."""

from __future__ import annotations

from typing import Any

from cycledistill_pose.codecs._heatmap import HeatmapCodec
from cycledistill_pose.codecs._regression import RegressionCodec
from cycledistill_pose.models import TokenPose, TokenReg


def codec_for(model: TokenPose | TokenReg, **options: Any) -> HeatmapCodec | RegressionCodec:
    """What turns keypoints into a network's targets, and its outputs into keypoints.

    >>> from cycledistill_pose.models import create_model
    >>> codec = codec_for(create_model("tokenpose_nano"), method="dark")
    >>> codec_for(create_model("tokenpose_nano"), **codec.to_dict()).method
    'dark'

    Args:
        model: The plain network.
        **options: What a codec's ``to_dict`` returns, such as ``method`` and ``sigma``. A
            regression network's codec has no options and ignores them.

    Raises:
        ValueError: An option is out of its range.
    """
    if isinstance(model, TokenReg):
        return RegressionCodec(model.input_size)
    return HeatmapCodec(model.input_size, model.heatmap_size, **options)
