"""Keypoints of LSPET's people, for several seeds at once."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from cycledistill_pose import HeatmapCodec, RegressionCodec
from cycledistill_pose.metrics import pck
from experiments._image_data import SeededImages, cached
from experiments._image_goal import Goal
from experiments._image_run import ImageRun
from experiments._people import SIDE, THRESHOLD, People, read_lspet
from experiments._task import data_folder, first_samples


class Truth(NamedTuple):
    """Targets.

    Attributes:
        targets: Heatmaps `[S, B, K, pixels]` or coordinates `[S, B, K, 2]`.
        weights: `[S, B, K]`, 0 where a keypoint has no label.
    """

    targets: Tensor
    weights: Tensor


class Heatmaps(Goal):
    """Mean squared errors of heatmaps, from the truth and from teachers, and PCK."""

    has_classes = False
    codec: ClassVar[Any] = HeatmapCodec((SIDE, SIDE), (SIDE // 4, SIDE // 4), sigma=1.5)

    def __init__(self, config: ImageRun, seeds: list[int], work: Path, device: str) -> None:
        train, self.val, self.test, flip_indices = _lspet(work)
        self.available = len(train.images)
        train = train.take(first_samples(config, self.available))
        swapped = list(flip_indices)
        mirrored = train.keypoints[:, swapped]
        mirrored = torch.stack([SIDE - 1 - mirrored[..., 0], mirrored[..., 1]], -1)
        both = [train.keypoints, mirrored], [train.visible, train.visible[:, swapped]]
        self._keypoints, self._visible = (torch.stack(one).to(device) for one in both)
        self.images = SeededImages(train.images, seeds, device)

    def batch(self, indices: Tensor, places: Tensor | None = None) -> tuple[Tensor, Truth]:
        """Augmented images `[S, B, 3, H, W]` and their targets."""
        drawn = self.images.batch(indices, places)
        place = drawn.mirrored, indices.to(self._keypoints.device)
        shift = torch.stack([drawn.right, drawn.down], -1)
        keypoints = self._keypoints[place] + shift[:, :, None]
        found = self.codec.encode(keypoints.flatten(0, 1), self._visible[place].flatten(0, 1))
        targets, weights = (one.unflatten(0, indices.shape) for one in found)
        return drawn.images, Truth(targets.flatten(3), weights)

    @staticmethod
    def errors(outputs: Tensor, targets: Tensor) -> Tensor:
        """Squared errors, summed over pixels, `[S, B, K]`."""
        return (outputs - targets).square().sum(-1)

    @classmethod
    def truth_loss(cls, outputs: Tensor, truth: Truth, smoothing: float) -> Tensor:
        """Errors of labelled keypoints, mean over all keypoints, `[S]`."""
        return (cls.errors(outputs, truth.targets) * truth.weights).mean((1, 2))

    @classmethod
    def teaching_loss(cls, outputs: Tensor, taught: Sequence[Tensor], temperature: float) -> Tensor:
        """Likewise, of all keypoints, from the teachers' mean; there is no temperature."""
        return cls.errors(outputs, cls.together(taught)).mean((1, 2))

    @staticmethod
    def together(taught: Sequence[Tensor]) -> Tensor:
        """What teachers predict together."""
        return torch.stack(list(taught)).mean(0)

    @classmethod
    def places(cls, outputs: Tensor) -> Tensor:
        """Keypoints `[N, K, 2]` in px of the image, of outputs `[N, K, pixels]`."""
        width, height = cls.codec.heatmap_size
        return cls.codec.decode(outputs.unflatten(-1, (height, width)))[0]

    @classmethod
    def score(cls, outputs: Tensor, split: People) -> Tensor:
        """PCK@0.1 of the box's longest side in percent, `[S]`, of outputs `[S, N, K, ...]`."""
        sizes = (split.boxes[:, 2:] - split.boxes[:, :2]).amax(-1)
        truth = split.keypoints, split.visible, sizes, THRESHOLD
        return 100 * torch.stack([pck(cls.places(own), *truth) for own in outputs])


class Coordinates(Heatmaps):
    """Absolute errors of coordinates, as parts of the image's side, and PCK."""

    codec = RegressionCodec((SIDE, SIDE))

    @staticmethod
    def errors(outputs: Tensor, targets: Tensor) -> Tensor:
        """Absolute errors, summed over both axes, `[S, B, K]`."""
        return (outputs - targets).abs().sum(-1)

    @classmethod
    def places(cls, outputs: Tensor) -> Tensor:
        """Keypoints `[N, K, 2]` in px of the image, of outputs `[N, K, 2]`."""
        return SIDE * outputs


def channels_first(people: People) -> People:
    """Images `[N, 3, H, W]`."""
    return people._replace(images=people.images.permute(0, 3, 1, 2))


@functools.cache
def _lspet(cache: Path) -> tuple[People, People, People, tuple[int, ...]]:
    """People to train, to choose and to report; images are `[N, 3, H, W]`."""

    def read(folder: Path) -> tuple[list[tuple[Tensor, ...]], tuple[int, ...]]:
        *splits, flip_indices = read_lspet(folder)
        return [tuple(channels_first(one)) for one in splits], flip_indices

    splits, flip_indices = cached(data_folder("lspet"), cache, read)
    train, val, test = (People(*split) for split in splits)
    return train, val, test, flip_indices
