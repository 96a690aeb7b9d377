"""A pose input pipeline as it is usually written: one person after the other, all in numpy.

It stands for the toolboxes in use. Each sample is read, decoded in full and turned to RGB, moved,
scaled, turned and mirrored by `PoseAugmentation`'s own draws, warped once, normalised, and given
its 17 heatmaps, before samples are joined.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from cycledistill_pose.data import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    PoseAugmentation,
    crop_matrix,
    transform_points,
)
from cycledistill_pose.skeletons import COCO

MEAN, STD = np.array(IMAGENET_MEAN, np.float32), np.array(IMAGENET_STD, np.float32)
PADDING = 1.25


class StraightPeople(Dataset[dict[str, Tensor]]):
    """People of COCO's annotations as normalised inputs, targets and weights."""

    def __init__(
        self,
        content: dict[str, Any],
        folder: Path,
        input_size: tuple[int, int],
        heatmap_size: tuple[int, int],
        sigma: float,
    ) -> None:
        images = {image["id"]: image for image in content["images"]}
        self.people = [
            (person, images[person["image_id"]])
            for person in content["annotations"]
            if person["num_keypoints"] and not person["iscrowd"]
        ]
        self.folder = folder
        self.input_size = input_size
        self.heatmap_size = heatmap_size
        self.sigma = sigma
        self.augmentation = PoseAugmentation()
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.people)

    def crop(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The crop `[H, W, 3]` in RGB, and keypoints and visibility in it."""
        person, image = self.people[index]
        pixels = cv2.imread(str(self.folder / image["file_name"]))
        pixels = cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
        x, y, w, h = person["bbox"]
        right, bottom = min(image["width"] - 1, x + w), min(image["height"] - 1, y + h)
        labels = np.array(person["keypoints"], dtype=np.float64).reshape(-1, 3)
        visible = (labels[:, 2] > 0).astype(np.float32)
        points = labels[:, :2] * visible[:, None]
        change = self.augmentation.draw(
            np.random.default_rng((0, self.epoch, index)),
            np.array([max(x, 0), max(y, 0), right, bottom]),
            PADDING,
            points,
            visible,
            COCO,
        )
        matrix = crop_matrix(
            change.box_xyxy,
            self.input_size,
            change.padding,
            shift=change.shift,
            scale=change.scale,
            rotation_degrees=change.rotation_degrees,
            flip=change.flip,
        )
        crop = cv2.warpAffine(pixels, matrix, self.input_size, flags=cv2.INTER_LINEAR)
        points = transform_points(points, matrix)
        if change.flip:
            order = list(COCO.flip_indices)
            points, visible = points[order], visible[order]
        return crop, points, visible

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        crop, points, visible = self.crop(index)
        image = crop.astype(np.float32)
        image *= 1 / 255
        image -= MEAN
        image /= STD
        targets, weights = self.draw(points, visible)
        return {
            "image": torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))),
            "target": torch.from_numpy(targets),
            "weight": torch.from_numpy(weights),
        }

    def draw(self, points: np.ndarray, visible: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Heatmaps `[K, H, W]` and weights `[K]`: an exponential for each pixel, as is usual."""
        width, height = self.heatmap_size
        targets = np.zeros((len(points), height, width), np.float32)
        weights = visible.copy()
        columns = np.arange(width, dtype=np.float32)
        rows = np.arange(height, dtype=np.float32)[:, None]
        reach = 3 * self.sigma
        places = points / (np.array(self.input_size) / self.heatmap_size)
        for keypoint, (x, y) in enumerate(places.astype(np.float32)):
            near = -reach - 1 <= x < width + reach and -reach - 1 <= y < height + reach
            if not (weights[keypoint] and near):
                weights[keypoint] = 0
                continue
            squares = (columns - x) ** 2 + (rows - y) ** 2
            targets[keypoint] = np.exp(squares * (-0.5 / self.sigma**2))
        return targets, weights
