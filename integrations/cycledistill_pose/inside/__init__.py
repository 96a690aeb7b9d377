"""Look inside a pose network: `cycledistill.inside`, with what it needs to know of the tokens."""

from __future__ import annotations

from cycledistill_pose.inside._record import PoseAttention, record_pose_attention

__all__ = ["PoseAttention", "record_pose_attention"]
