"""`cycledistill.inside` for pose networks: which token stands for which part of the image."""

from __future__ import annotations

from cycledistill_pose.inside._record import PoseAttention, record_pose_attention

__all__ = ["PoseAttention", "record_pose_attention"]
