"""Network and loss of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cycledistill import CycleDistillLoss
from cycledistill_pose.checkpoints import (
    load_plain,
    load_reference_checkpoint,
    to_reference_state_dict,
)
from cycledistill_pose.models import TokenPose, TokenPruning, TokenReg, create_model, sdpose_loss
from cycledistill_pose.recipes._config import PoseConfig


def model_options(config: PoseConfig) -> dict[str, Any]:
    """Options of ``create_model`` that a config sets."""
    names = ("input_size", "heatmap_size", "patch_size", "dim", "depth", "num_heads")
    options = {name: getattr(config, name) for name in names if getattr(config, name) is not None}
    if config.pruning:
        options["pruning"] = TokenPruning()
    return options


def build_model(config: PoseConfig, num_keypoints: int) -> TokenPose | TokenReg:
    """The plain network, with its initial weights.

    Raises:
        ValueError: There is no such model, or an option or the initial weights do not fit it.
        FileNotFoundError: There are no such weights.
    """
    model = create_model(
        config.model, num_keypoints, pretrained=config.pretrained, **model_options(config)
    )
    if config.initial_weights is not None:
        source: Any = config.initial_weights
        if Path(source).is_dir():
            source = to_reference_state_dict(load_plain(source).model)
        load_reference_checkpoint(model, source, allow_head_mismatch=True)
    return model


def build_criterion(config: PoseConfig, model: TokenPose | TokenReg) -> CycleDistillLoss:
    """The paper's eq. 4 with the ablations of its tables 5 to 7."""
    distill = config.mode == "distill"
    return sdpose_loss(
        model,
        token_weight={
            "keypoint": config.keypoint_weight if distill else 0.0,
            "visual": config.visual_weight if distill else 0.0,
        },
        detach_teacher=config.detach_teacher,
        task_cycles=config.task_cycles if distill else "last",
        teacher=config.teacher if distill else "next",
    )
