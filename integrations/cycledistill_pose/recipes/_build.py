"""Network and loss of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from cycledistill import CycleDistillLoss, CycleWrapper, FoldLoss
from cycledistill.training import find_trained, start_from
from cycledistill_pose.checkpoints import (
    load_plain,
    load_reference_checkpoint,
    to_reference_state_dict,
)
from cycledistill_pose.codecs import codec_for
from cycledistill_pose.losses import as_truth
from cycledistill_pose.models import TokenPose, TokenPruning, TokenReg, create_model, sdpose_loss
from cycledistill_pose.recipes._config import PoseConfig


def model_options(config: PoseConfig) -> dict[str, Any]:
    """Options of ``create_model`` that a config sets.

    Raises:
        ValueError: One is not for this model.
    """
    names = ("input_size", "heatmap_size", "patch_size", "dim", "depth", "num_heads")
    options = {name: getattr(config, name) for name in names if getattr(config, name) is not None}
    if config.pruning:
        options["pruning"] = TokenPruning()
    if config.heatmap_size is not None and config.model.startswith("tokenreg"):
        raise ValueError(
            f"heatmap_size: expected None, because {config.model} predicts coordinates, "
            f"got {config.heatmap_size}"
        )
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


def build_teacher(config: PoseConfig, model: TokenPose | TokenReg) -> CycleWrapper | None:
    """The frozen teacher of mode fold; with ``warm_start`` the network takes its weights.

    Args:
        config: The options.
        model: The plain network that learns from it.

    Raises:
        FileNotFoundError: The folder has no network.
        ValueError: The teacher is another kind of network, or was trained on other targets.
    """
    if config.folded_from is None:
        return None
    found = find_trained(config.folded_from)
    network, _, its_codec = load_plain(found.network)
    if type(network) is not type(model) or network.input_size != model.input_size:
        raise ValueError(
            f"folded_from={config.folded_from} is a {type(network).__name__} for images of "
            f"{network.input_size}, expected a {type(model).__name__} for {model.input_size}"
        )
    ours = codec_for(model, method=config.codec, sigma=config.sigma)
    theirs = codec_for(network, **its_codec)
    point = 0.3137 * torch.tensor([[model.input_size]])
    if not torch.equal(ours.encode(point)[0], theirs.encode(point)[0]):
        raise ValueError(
            f"folded_from={config.folded_from} was trained on other targets: expected {ours}, "
            f"got {theirs}"
        )
    teacher = CycleWrapper(network, num_cycles=found.cycles, blocks="blocks").eval()
    if config.warm_start:
        start_from(model, teacher, config.folded_from)
    return teacher


def build_criterion(
    config: PoseConfig, model: TokenPose | TokenReg, teacher: CycleWrapper | None = None
) -> CycleDistillLoss | FoldLoss:
    """The paper's eq. 4 with the ablations of its tables 5 to 7; in mode fold `FoldLoss`."""
    distill = config.mode == "distill"
    criterion = sdpose_loss(
        model,
        token_weight={
            "keypoint": config.keypoint_weight if distill else 0.0,
            "visual": config.visual_weight if distill else 0.0,
        },
        detach_teacher=config.detach_teacher,
        task_cycles=config.task_cycles if distill else "last",
        teacher=config.teacher if distill else "next",
    )
    if teacher is None:
        return criterion
    task = criterion.task_loss
    return FoldLoss(task, teacher, config.truth_weight, prediction_distance=as_truth(task))
