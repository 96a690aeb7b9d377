"""Metrics of poses: COCO's and CrowdPose's average precision, bootstrap, PCK, and their parts."""

from __future__ import annotations

from cycledistill_pose.metrics._bootstrap import bootstrap_ap, percentile_interval
from cycledistill_pose.metrics._coco_ap import CocoKeypointAP
from cycledistill_pose.metrics._crowdpose_ap import CrowdPoseAP
from cycledistill_pose.metrics._oks import oks, oks_nms, soft_oks_nms
from cycledistill_pose.metrics._pck import PCK, pck

__all__ = [
    "PCK",
    "CocoKeypointAP",
    "CrowdPoseAP",
    "bootstrap_ap",
    "oks",
    "oks_nms",
    "pck",
    "percentile_interval",
    "soft_oks_nms",
]
