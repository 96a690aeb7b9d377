"""The published models by name."""

from __future__ import annotations

from typing import Any

from torch import nn

from cycledistill._checks import check_choice
from cycledistill_pose.models._hrnet import HRNet
from cycledistill_pose.models._stem_net import StemNet
from cycledistill_pose.models._tokenpose import TokenPose
from cycledistill_pose.models._tokenreg import TokenReg

_NANO: dict[str, Any] = {"input_size": (96, 128), "dim": 96, "depth": 4, "num_heads": 4}

MODELS: dict[str, tuple[type[TokenPose] | type[TokenReg], dict[str, Any]]] = {
    "tokenpose_t": (TokenPose, {"depth": 6}),
    "tokenpose_s_v1": (TokenPose, {"depth": 12}),
    "tokenpose_s_v2": (TokenPose, {"depth": 12, "patch_size": (2, 2)}),
    "tokenpose_b": (TokenPose, {"depth": 12}),
    "tokenpose_nano": (TokenPose, {**_NANO, "heatmap_size": (24, 32)}),
    "tokenreg_s": (TokenReg, {"depth": 12}),
    "tokenreg_nano": (TokenReg, _NANO),
}


def create_model(
    name: str, num_keypoints: int = 17, *, pretrained: bool = False, **options: Any
) -> TokenPose | TokenReg:
    """Build a plain pose network by its name.

    >>> model = create_model("tokenpose_s_v1")
    >>> sum(p.numel() for p in model.parameters() if p.requires_grad)
    6620736
    >>> create_model("tokenpose_nano", num_keypoints=5).heatmap_size
    (24, 32)

    | name | backbone | patch (h, w) | blocks | trainable, K = 17 |
    |---|---|---|---|---|
    | `tokenpose_t` | StemNet | 4, 3 | 6 | 4,398,528 |
    | `tokenpose_s_v1` | StemNet | 4, 3 | 12 | 6,620,736 |
    | `tokenpose_s_v2` | StemNet | 2, 2 | 12 | 6,227,520 |
    | `tokenpose_b` | HRNet-W32, 32 inner channels in stage 1 | 4, 3 | 12 | 13,145,984 |
    | `tokenreg_s` | StemNet | 4, 3 | 12 | 5,363,908 |
    | `tokenpose_nano` | StemNet of width 32, 2 blocks | 4, 3 | 4 | 643,040 |
    | `tokenreg_nano` | StemNet of width 32, 2 blocks | 4, 3 | 4 | 568,932 |

    These are the networks of SDPose-T, S-V1, S-V2, B and Reg (`create_sdpose` cycles them). With
    `pruning=TokenPruning()` they are those of PPT: the same parameters, 1.99 instead of 2.38 G
    MACs for `tokenpose_s_v1` (paper, table 8); so cycled, SDPose-S-V1 + PPT.

    The nano models take images of 96x128 px (width x height), a quarter of the others' area, and
    are meant for CPUs, tests and first steps.

    Args:
        name: One of the table.
        num_keypoints: Number of keypoints.
        pretrained: Start the backbone from ImageNet weights; only `tokenpose_b` has them.
        **options: Arguments of `TokenPose` or `TokenReg` that replace the preset's,
            such as `input_size=(288, 384), heatmap_size=(72, 96)`,
            `backbone=...` or `pruning=TokenPruning()`.

    Raises:
        ValueError: No such name, no weights to start from, or options that do not fit.
    """
    check_choice("model", name, *MODELS)
    model_class, preset = MODELS[name]
    made_by = None if options.get("backbone") is not None else (name, dict(options))
    if options.get("backbone") is None:
        options["backbone"] = _backbone(name, pretrained)
    elif pretrained:
        raise ValueError("pretrained=True is for the preset's backbone, but backbone= was given")
    model = model_class(num_keypoints, **{**preset, **options})
    model.made_by = made_by
    return model


def _backbone(name: str, pretrained: bool) -> nn.Module:
    if name == "tokenpose_b":
        return HRNet(stage1_width=32, pretrained=pretrained)
    if pretrained:
        raise ValueError(f"{name} has no ImageNet weights; its StemNet is trained from scratch")
    return StemNet(width=32, num_blocks=2) if name.endswith("_nano") else StemNet()
