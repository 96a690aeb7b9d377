"""COCO-format files or generated people as batches of crops."""

from __future__ import annotations

from cycledistill_pose.annotations import BoxFile, KeypointFile
from cycledistill_pose.data._augmentation import PoseAugmentation
from cycledistill_pose.data._coco_keypoints import CocoKeypoints
from cycledistill_pose.data._crop import crop_matrix, invert_matrix, transform_points
from cycledistill_pose.data._loader import pose_loader
from cycledistill_pose.data._normalize import IMAGENET_MEAN, IMAGENET_STD, normalize_images
from cycledistill_pose.data._picture import BadImageError
from cycledistill_pose.data._roots import PoseFiles, check_coco_root, check_crowdpose_root
from cycledistill_pose.data.synthetic import SyntheticPeople, contact_sheet

__all__ = [
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "BadImageError",
    "BoxFile",
    "CocoKeypoints",
    "KeypointFile",
    "PoseAugmentation",
    "PoseFiles",
    "SyntheticPeople",
    "check_coco_root",
    "check_crowdpose_root",
    "contact_sheet",
    "crop_matrix",
    "invert_matrix",
    "normalize_images",
    "pose_loader",
    "transform_points",
]
