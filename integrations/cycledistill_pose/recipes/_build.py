"""Network, wrapper, codec and loss of a config."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cycledistill import CycleDistillLoss, CycleWrapper
from cycledistill_pose.checkpoints import (
    load_plain,
    load_reference_checkpoint,
    to_reference_state_dict,
)
from cycledistill_pose.codecs import HeatmapCodec, RegressionCodec
from cycledistill_pose.models import TokenPose, TokenPruning, TokenReg, create_model, sdpose_loss
from cycledistill_pose.models._create import MODELS
from cycledistill_pose.prediction._codec import codec_for
from cycledistill_pose.recipes._config import PoseConfig


def model_options(config: PoseConfig) -> dict[str, Any]:
    """Options of ``create_model`` that a config sets."""
    names = ("input_size", "heatmap_size", "patch_size", "dim", "depth", "num_heads")
    options = {name: getattr(config, name) for name in names if getattr(config, name) is not None}
    if config.pruning:
        options["pruning"] = TokenPruning()
    return options


def input_size_of(config: PoseConfig) -> tuple[int, int]:
    """Width and height of the network's input in px.

    Raises:
        ValueError: There is no such model.
    """
    if config.model not in MODELS:
        raise ValueError(f"no model is called {config.model!r}; there are {', '.join(MODELS)}")
    return config.input_size or MODELS[config.model][1].get("input_size", (192, 256))


def build_model(config: PoseConfig, num_keypoints: int) -> TokenPose | TokenReg:
    """The plain network.

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


def wrap_model(config: PoseConfig, model: TokenPose | TokenReg) -> CycleWrapper:
    """The network in a wrapper with the mode's cycles."""
    return CycleWrapper(model, blocks="blocks", **config.wrapper_options())


def build_codec(config: PoseConfig, model: TokenPose | TokenReg) -> HeatmapCodec | RegressionCodec:
    """What turns keypoints into the network's targets, and its outputs into keypoints."""
    return codec_for(model, sigma=config.sigma, method=config.codec)


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
