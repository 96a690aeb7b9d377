"""A saved pose network for `cycledistill export`."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cycledistill.export import Exportable
from cycledistill_pose.annotations import check_same_keypoints
from cycledistill_pose.codecs import HeatmapCodec, RegressionCodec
from cycledistill_pose.data import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    CocoKeypoints,
    KeypointFile,
    SyntheticPeople,
    invert_matrix,
    normalize_images,
    transform_points,
)
from cycledistill_pose.data._crop import PADDING
from cycledistill_pose.data._picture import read_rgb
from cycledistill_pose.prediction._predictor import PosePredictor

Outputs = dict[str, Tensor]


def load_exportable(folder: Path, config: dict[str, Any]) -> Exportable | None:
    """Load a folder that `save_plain` wrote; None when it is another kind of folder.

    The example inputs are generated people; `read_images` crops whole images for the network.
    """
    if not str(config.get("format", "")).startswith("cycledistill_pose/"):
        return None
    predictor = PosePredictor.from_pretrained(folder)
    decoder = KeypointDecoder(predictor.codec)

    def read_images(paths: Sequence[Path]) -> tuple[Tensor, ...]:
        return _inputs([predictor.crop(read_rgb(path))[0][0] for path in paths])

    def keypoints(outputs: Outputs) -> Outputs:
        return outputs if "keypoints" in outputs else decoder(outputs["output"])

    def judge(before: Outputs, after: Outputs) -> str:
        change = keypoints(after)["keypoints"] - keypoints(before)["keypoints"]
        return _moved(change.norm(dim=-1).flatten())

    people = SyntheticPeople(3, predictor.input_size)
    return Exportable(
        predictor.plain,
        _inputs([people[index]["image"].numpy() for index in range(3)]),
        "blocks",
        read_images,
        decoder,
        metadata=_metadata(predictor),
        judge=judge,
        read_annotated=functools.partial(_annotated, predictor, keypoints),
        num_cycles=predictor.num_cycles,
    )


class KeypointDecoder(nn.Module):
    """A codec's `decode` as the last layer of a network.

    >>> import torch
    >>> decoder = KeypointDecoder(RegressionCodec(input_size=(192, 256)))
    >>> decoder(torch.tensor([[[0.25, 0.25, 0.0, 0.0]]]))
    {'keypoints': tensor([[[48., 64.]]]), 'scores': tensor([[0.5000]])}
    """

    def __init__(self, codec: HeatmapCodec | RegressionCodec) -> None:
        super().__init__()
        self.codec = codec

    def forward(self, outputs: Tensor) -> dict[str, Tensor]:
        """Keypoints `[B, K, 2]` in px of the input and scores `[B, K]`."""
        keypoints, scores = self.codec.decode(outputs)
        return {"keypoints": keypoints, "scores": scores}

    def extra_repr(self) -> str:
        """The codec, for ``repr``."""
        return repr(self.codec)


def _inputs(crops: Sequence[Any]) -> tuple[Tensor]:
    return (normalize_images(torch.from_numpy(np.stack(crops))).contiguous(),)


def _moved(distances: Tensor) -> str:
    middle, most = distances.quantile(0.5), distances.quantile(0.95)
    return (
        f"  keypoints move by {distances.mean():.2f} px of the input on average (median "
        f"{middle:.2f}, 95 % by less than {most:.2f}, at most {distances.max():.1f})"
    )


def _annotated(
    predictor: PosePredictor,
    keypoints: Any,
    annotations: Path,
    images: Path,
    category: str | None,
) -> tuple[tuple[Tensor, ...], Any]:
    """The people of a COCO-format file, and a judge that computes AP."""
    from cycledistill_pose.metrics import CocoKeypointAP

    file = KeypointFile.read(annotations, category, fallback=predictor.skeleton)
    check_same_keypoints(("the network", predictor.skeleton), file.named)
    people = CocoKeypoints(file, images, predictor.input_size, udp=predictor.codec.udp_crops)
    batch = torch.utils.data.default_collate([people[index] for index in range(len(people))])
    to_image = invert_matrix(batch["crop_matrix"])
    labelled = batch["visible"] > 0

    def score(outputs: Outputs) -> float:
        metric = CocoKeypointAP(file, sigmas=file.category.sigmas or predictor.skeleton.sigmas)
        found = transform_points(outputs["keypoints"], to_image)
        scores = outputs["scores"]
        metric.update(batch["image_id"], found, scores, batch["box_xyxy"], batch["box_score"])
        return 100 * metric.compute()["AP"]

    def judge(before: Outputs, after: Outputs) -> str:
        before, after = keypoints(before), keypoints(after)
        change = (after["keypoints"] - before["keypoints"]).norm(dim=-1)
        return f"{_moved(change[labelled])}\n  AP {score(before):.1f} -> {score(after):.1f}"

    return _inputs(list(batch["image"].numpy())), judge


def _metadata(predictor: PosePredictor) -> dict[str, str]:
    """What a program needs to know to run the file; every value is JSON."""
    codec, skeleton = predictor.codec, predictor.skeleton
    decoding: dict[str, Any] = {"kind": "regression"}
    if isinstance(codec, HeatmapCodec):
        decoding = {"kind": "heatmap", **codec.to_dict(), "stride": codec.stride}
    values = {
        "input_size": predictor.input_size,
        "color_order": "RGB",
        "mean": IMAGENET_MEAN,
        "std": IMAGENET_STD,
        "padding": PADDING,
        "udp": codec.udp_crops,
        "codec": decoding,
        "keypoint_names": skeleton.keypoint_names,
        "flip_pairs": [
            [skeleton.keypoint_names[index] for index in pair] for pair in skeleton.flip_pairs
        ],
    }
    return {name: json.dumps(value) for name, value in values.items()}
