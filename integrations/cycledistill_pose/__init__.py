"""Human pose estimation with TokenPose and TokenReg, plain and cycled (SDPose).

What most programs need stands here; the rest is in the subpackages.
"""

from __future__ import annotations

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

if typing.TYPE_CHECKING:
    from cycledistill_pose.metrics import (
        PCK,
        CocoKeypointAP,
        CrowdPoseAP,
        bootstrap_ap,
        percentile_interval,
    )

__all__ = [
    "COCO",
    "CROWDPOSE",
    "PCK",
    "CocoKeypointAP",
    "CocoKeypoints",
    "CrowdPoseAP",
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
    "bootstrap_ap",
    "create_model",
    "create_sdpose",
    "load_plain",
    "load_reference_checkpoint",
    "normalize_images",
    "percentile_interval",
    "push_to_hub",
    "save_plain",
    "sdpose_loss",
]


def __getattr__(name: str) -> typing.Any:
    """The metrics, when they are first used: torchmetrics takes seconds to import."""
    if name in __all__:
        from cycledistill_pose import metrics

        return getattr(metrics, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
