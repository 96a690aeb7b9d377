"""Plain pose networks on keypoint tokens, and their cycled forms."""

from __future__ import annotations

from cycledistill_pose.models._create import create_model
from cycledistill_pose.models._hrnet import HRNet
from cycledistill_pose.models._pruning import TokenPruning
from cycledistill_pose.models._sdpose import create_sdpose, sdpose_loss
from cycledistill_pose.models._stem_net import StemNet
from cycledistill_pose.models._tokenpose import TokenPose
from cycledistill_pose.models._tokenreg import TokenReg

__all__ = [
    "HRNet",
    "StemNet",
    "TokenPose",
    "TokenPruning",
    "TokenReg",
    "create_model",
    "create_sdpose",
    "sdpose_loss",
]
