"""Released weights as the folder that everything else takes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from cycledistill_pose.checkpoints import load_reference_checkpoint, save_plain
from cycledistill_pose.codecs import codec_for
from cycledistill_pose.codecs._heatmap import HeatmapMethod
from cycledistill_pose.models import TokenPruning, create_model
from cycledistill_pose.skeletons import COCO, CROWDPOSE

_SKELETONS = {"coco": COCO, "crowdpose": CROWDPOSE}


def convert(
    checkpoint: Annotated[Path, tyro.conf.Positional],
    model: str,
    out: Path,
    skeleton: Literal["coco", "crowdpose"] = "coco",
    codec: HeatmapMethod = "dark",
    pruning: bool = False,
) -> None:
    """Convert released weights of SDPose, PPT or TokenPose to the folder of a plain network.

    The folder works with predict, evaluate, inside and `cycledistill export`. It must not exist,
    and appears only once it is complete. The file is read as tensors only; no code in it is run.

    Args:
        checkpoint: A released .pth or .safetensors file.
        model: The network: tokenpose_t, tokenpose_s_v1, tokenpose_s_v2, tokenpose_b or
            tokenreg_s.
        out: Folder to write.
        skeleton: Keypoints it was trained on.
        codec: How its heatmaps are decoded.
        pruning: Whether it was trained with token pruning (PPT).
    """
    if out.exists():
        raise FileExistsError(f"{out} exists; name a new folder")
    keypoints = _SKELETONS[skeleton]
    options: dict[str, Any] = {"pruning": TokenPruning()} if pruning else {}
    network = create_model(model, keypoints.num_keypoints, **options)
    report = load_reference_checkpoint(network, checkpoint)
    save_plain(network, out, model, options, keypoints, codec_for(network, method=codec).to_dict())
    left = f", {len(report.ignored)} of a loss left aside" if report.ignored else ""
    print(f"{len(report.loaded)} tensors{left}: {out}")
