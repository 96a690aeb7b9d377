"""Keypoint skeletons: names, symmetry, limbs and similarity scales."""

from __future__ import annotations

from cycledistill_pose.skeletons._skeleton import COCO, CROWDPOSE, Skeleton

__all__ = ["COCO", "CROWDPOSE", "Skeleton"]
