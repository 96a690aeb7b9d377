"""Human pose estimation with TokenPose and TokenReg, plain and cycled (SDPose).

What most programs need is here; the rest is in the subpackages, such as the metrics, which take
seconds to import.
"""

from __future__ import annotations

import importlib
import typing

from cycledistill_pose.annotations import KeypointFile
from cycledistill_pose.checkpoints import (
    load_plain,
    load_reference_checkpoint,
    push_to_hub,
    save_plain,
)
from cycledistill_pose.codecs import HeatmapCodec, RegressionCodec
from cycledistill_pose.data import (
    CocoKeypoints,
    PoseAugmentation,
    SyntheticPeople,
    normalize_images,
)
from cycledistill_pose.losses import HeatmapMSELoss, RLELoss
from cycledistill_pose.models import (
    TokenPose,
    TokenPruning,
    TokenReg,
    create_model,
    create_sdpose,
    sdpose_loss,
)
from cycledistill_pose.prediction import PosePredictor
from cycledistill_pose.skeletons import COCO, CROWDPOSE, Skeleton

__all__ = [
    "COCO",
    "CROWDPOSE",
    "CocoKeypoints",
    "HeatmapCodec",
    "HeatmapMSELoss",
    "KeypointFile",
    "PoseAugmentation",
    "PosePredictor",
    "RLELoss",
    "RegressionCodec",
    "Skeleton",
    "SyntheticPeople",
    "TokenPose",
    "TokenPruning",
    "TokenReg",
    "create_model",
    "create_sdpose",
    "load_plain",
    "load_reference_checkpoint",
    "normalize_images",
    "push_to_hub",
    "save_plain",
    "sdpose_loss",
]

_METRICS = ("PCK", "CocoKeypointAP", "CrowdPoseAP", "bootstrap_ap", "percentile_interval")


def __getattr__(name: str) -> typing.Any:
    """Let older programs import the metrics from here."""
    if name not in _METRICS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module("cycledistill_pose.metrics"), name)
