"""Human pose estimation with TokenPose and TokenReg, plain and cycled (SDPose).

The public names of the sub-packages stand here too, apart from those of `recipes` and `comparison`,
which are whole jobs; each sub-package is imported when one of its names is first used, so that a
network alone needs neither pycocotools nor OpenCV.
"""

from __future__ import annotations

import importlib
import typing

if typing.TYPE_CHECKING:
    from cycledistill_pose.checkpoints import (
        LoadReport,
        PlainCheckpoint,
        load_plain,
        load_reference_checkpoint,
        push_to_hub,
        save_plain,
        to_reference_state_dict,
    )
    from cycledistill_pose.codecs import (
        HeatmapCodec,
        RegressionCodec,
        flip_heatmaps,
        flip_regression,
    )
    from cycledistill_pose.data import (
        BadImageError,
        BoxFile,
        CocoKeypoints,
        KeypointFile,
        PoseAugmentation,
        PoseFiles,
        SyntheticPeople,
        check_coco_root,
        check_crowdpose_root,
        contact_sheet,
        crop_matrix,
        invert_matrix,
        normalize_images,
        pose_loader,
        transform_points,
    )
    from cycledistill_pose.drawing import draw_skeleton, prediction_grid, save_picture
    from cycledistill_pose.inside import PoseAttention, record_pose_attention
    from cycledistill_pose.losses import HeatmapMSELoss, RealNVP, RLELoss
    from cycledistill_pose.metrics import (
        PCK,
        CocoKeypointAP,
        CrowdPoseAP,
        bootstrap_ap,
        oks,
        oks_nms,
        pck,
        percentile_interval,
        soft_oks_nms,
    )
    from cycledistill_pose.models import (
        HRNet,
        MacCount,
        StemNet,
        TokenPose,
        TokenPruning,
        TokenReg,
        count_macs,
        create_model,
        create_sdpose,
        sdpose_loss,
    )
    from cycledistill_pose.prediction import (
        PersonDetector,
        PosePredictor,
        Prediction,
        predict_cycles,
    )
    from cycledistill_pose.skeletons import COCO, CROWDPOSE, Skeleton

__all__ = [
    "COCO",
    "CROWDPOSE",
    "PCK",
    "BadImageError",
    "BoxFile",
    "CocoKeypointAP",
    "CocoKeypoints",
    "CrowdPoseAP",
    "HRNet",
    "HeatmapCodec",
    "HeatmapMSELoss",
    "KeypointFile",
    "LoadReport",
    "MacCount",
    "PersonDetector",
    "PlainCheckpoint",
    "PoseAttention",
    "PoseAugmentation",
    "PoseFiles",
    "PosePredictor",
    "Prediction",
    "RLELoss",
    "RealNVP",
    "RegressionCodec",
    "Skeleton",
    "StemNet",
    "SyntheticPeople",
    "TokenPose",
    "TokenPruning",
    "TokenReg",
    "bootstrap_ap",
    "check_coco_root",
    "check_crowdpose_root",
    "contact_sheet",
    "count_macs",
    "create_model",
    "create_sdpose",
    "crop_matrix",
    "draw_skeleton",
    "flip_heatmaps",
    "flip_regression",
    "invert_matrix",
    "load_plain",
    "load_reference_checkpoint",
    "normalize_images",
    "oks",
    "oks_nms",
    "pck",
    "percentile_interval",
    "pose_loader",
    "predict_cycles",
    "prediction_grid",
    "push_to_hub",
    "record_pose_attention",
    "save_picture",
    "save_plain",
    "sdpose_loss",
    "soft_oks_nms",
    "to_reference_state_dict",
    "transform_points",
]

_ROOMS = (
    "skeletons",
    "models",
    "losses",
    "checkpoints",
    "codecs",
    "data",
    "prediction",
    "drawing",
    "inside",
    "metrics",
)


def __getattr__(name: str) -> typing.Any:
    if name in __all__:
        for room in _ROOMS:
            module = importlib.import_module(f"cycledistill_pose.{room}")
            if name in module.__all__:
                return getattr(module, name)
    raise AttributeError(f"module 'cycledistill_pose' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
