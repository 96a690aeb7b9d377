"""Weights of the reference implementations, and folders of plain networks."""

from __future__ import annotations

from cycledistill_pose.checkpoints._hub import push_to_hub
from cycledistill_pose.checkpoints._load import (
    LoadReport,
    load_reference_checkpoint,
    to_reference_state_dict,
)
from cycledistill_pose.checkpoints._plain import PlainCheckpoint, load_plain, save_plain

__all__ = [
    "LoadReport",
    "PlainCheckpoint",
    "load_plain",
    "load_reference_checkpoint",
    "push_to_hub",
    "save_plain",
    "to_reference_state_dict",
]
