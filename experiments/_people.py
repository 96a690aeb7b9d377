"""Pose: the people of LSPET, cut out once at 64x64 px, learnt by a small TokenPose or TokenReg."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from cycledistill import CycleWrapper
from cycledistill_pose import (
    CocoKeypoints,
    HeatmapCodec,
    HeatmapMSELoss,
    RegressionCodec,
    RLELoss,
    create_model,
    normalize_images,
)
from cycledistill_pose.losses import as_truth
from cycledistill_pose.metrics import PCK
from cycledistill_pose.models import StemNet
from cycledistill_pose.prediction import predict_cycles
from experiments._config import RunConfig
from experiments._task import Batch, SplitName, data_folder, every_tenth, first_samples

SIDE = 64
THRESHOLD = 0.1


class People(NamedTuple):
    """Crops and what is known of them.

    Attributes:
        images: `[N, 64, 64, 3]` uint8.
        keypoints: `[N, K, 2]` px of the crop.
        visible: `[N, K]`, 1 where labelled.
        boxes: `[N, 4]`, corners in px of the crop.
    """

    images: Tensor
    keypoints: Tensor
    visible: Tensor
    boxes: Tensor

    def take(self, indices: Tensor | slice) -> People:
        """The people at ``indices`` `[M]`."""
        return People(*(values[indices] for values in self))


class Poses:
    """People and their keypoints; half of the training crops are mirrored.

    Args:
        train: Training set.
        val: Validation set.
        test: Test set.
        flip_indices: For each keypoint the one that it becomes in a mirrored image.
        head: heatmap or regression.
    """

    prediction_distance = "mse"

    def __init__(
        self, train: People, val: People, test: People, flip_indices: tuple[int, ...], head: str
    ) -> None:
        self._splits = {"train": train, "val": val, "test": test}
        self._swapped = torch.tensor(flip_indices)
        self._head = head
        count = len(flip_indices)
        self.num_samples = len(train.images)
        self.example = normalize_images(val.images[:1])
        self.parts: Mapping[str, slice] = {
            "keypoint": slice(0, count),
            "visual": slice(count, None),
        }
        self.token_groups = self.parts
        self.codec = (
            HeatmapCodec((SIDE, SIDE), (SIDE // 4, SIDE // 4), sigma=1.5)
            if head == "heatmap"
            else RegressionCodec((SIDE, SIDE))
        )

    def model(self, config: RunConfig) -> nn.Module:
        """A network of 16 visual tokens behind a narrow StemNet."""
        sizes: dict[str, Any] = {
            "input_size": (SIDE, SIDE),
            "patch_size": (4, 4),
            "dim": config.width,
            "depth": config.depth,
            "num_heads": config.width // config.head_dim,
            "backbone": StemNet(16, 2),
        }
        count = len(self._swapped)
        if self._head == "heatmap":
            return create_model("tokenpose_nano", count, heatmap_size=(16, 16), **sizes)
        return create_model("tokenreg_nano", count, **sizes)

    def loss(self, config: RunConfig) -> nn.Module:
        """Mean squared error of heatmaps, or RLE."""
        return HeatmapMSELoss() if self._head == "heatmap" else RLELoss()

    def teaching(self, loss: nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
        """The task loss with the teacher's heatmaps or coordinates as truth, all visible."""
        return as_truth(loss)

    def batch(self, indices: Tensor) -> Batch:
        """Crops, half of them mirrored, and the codec's targets."""
        device = indices.device
        images, keypoints, visible, _ = self._on("train", device).take(indices)
        mirrored = (torch.rand(len(indices)) < 0.5).to(device)
        swapped = self._swapped.to(device)
        images = torch.where(mirrored[:, None, None, None], images.flip(2), images)
        other = keypoints[:, swapped]
        other = torch.stack([SIDE - 1 - other[..., 0], other[..., 1]], dim=-1)
        keypoints = torch.where(mirrored[:, None, None], other, keypoints)
        visible = torch.where(mirrored[:, None], visible[:, swapped], visible)
        return Batch(normalize_images(images), self.codec.encode(keypoints, visible))

    @torch.no_grad()
    def scores(self, model: CycleWrapper, split: SplitName, cycles: int) -> list[float]:
        """PCK@0.1 of the box's longest side, without the flip test."""
        people = self._on(split, next(model.parameters()).device)
        metrics = [PCK(len(self._swapped), THRESHOLD) for _ in range(cycles)]
        for part in torch.arange(len(people.images)).split(250):
            images, keypoints, visible, boxes = people.take(part)
            found = predict_cycles(model, normalize_images(images), self.codec, cycles, None)
            for metric, (points, _) in zip(metrics, found, strict=True):
                metric.update(points.cpu(), keypoints.cpu(), visible.cpu(), boxes.cpu())
        return [100 * float(metric.compute()) for metric in metrics]

    def _on(self, name: SplitName, device: torch.device) -> People:
        split = self._splits[name]
        if split.images.device != device:
            self._splits[name] = split = People(*(values.to(device) for values in split))
        return split


def load_people(config: RunConfig) -> Poses:
    """LSPET: every tenth person of train.json to choose, val.json to report, the others to train.

    Raises:
        FileNotFoundError: LSPET's folder is missing.
        ValueError: There are fewer training samples than the run wants.
    """
    train, val, test, flip_indices = read_lspet(data_folder("lspet"))
    train = train.take(first_samples(config, len(train.images)))
    return Poses(train, val, test, flip_indices, config.head)


@functools.cache
def read_lspet(folder: Path) -> tuple[People, People, People, tuple[int, ...]]:
    """People to train on, to choose and to report, and each keypoint's partner in the mirror."""
    given, flip_indices = read_people(folder / "train.json", folder / "train")
    to_train, to_choose = every_tenth(len(given.images))
    reported, _ = read_people(folder / "val.json", folder / "val")
    return given.take(to_train), given.take(to_choose), reported, flip_indices


def read_people(annotations: Path, folder: Path) -> tuple[People, tuple[int, ...]]:
    """The people of a COCO-format file, and each keypoint's partner in the mirror."""
    people = CocoKeypoints(annotations, folder, (SIDE, SIDE))
    samples = [people[index] for index in range(len(people))]
    matrices = torch.stack([sample["crop_matrix"] for sample in samples])
    corners = torch.stack([sample["box_xyxy"] for sample in samples]).reshape(-1, 2, 2)
    boxes = corners @ matrices[:, :, :2].mT + matrices[:, None, :, 2]
    images, keypoints, visible = (
        torch.stack([sample[key] for sample in samples])
        for key in ("image", "keypoints", "visible")
    )
    return People(images, keypoints, visible, boxes.flatten(1)), people.skeleton.flip_indices
