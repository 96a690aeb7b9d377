"""From a person in an image to one sample of a batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from cycledistill_pose.annotations._values import FloatArray
from cycledistill_pose.data._augmentation import PoseAugmentation
from cycledistill_pose.data._crop import crop_matrix, transform_points
from cycledistill_pose.data._picture import ImageArray
from cycledistill_pose.skeletons import Skeleton


class Person(NamedTuple):
    """One person in px of the image: box `[4]`, keypoints `[K, 2]` and whether labelled `[K]`."""

    box_xyxy: FloatArray
    keypoints: FloatArray
    visible: FloatArray
    box_score: float
    image_id: int
    annotation_id: int


@dataclass(frozen=True)
class Cropping:
    """How people are cut out of images; see `CocoKeypoints`."""

    skeleton: Skeleton
    input_size: tuple[int, int]
    padding: float
    udp: bool
    augmentation: PoseAugmentation | None

    def draw_matrix(self, key: tuple[int, ...], person: Person) -> tuple[FloatArray, bool]:
        """Image -> input `[2, 3]`, and whether it mirrors; ``key`` seeds the augmentation."""
        box = person.box_xyxy
        if self.augmentation is None:
            return crop_matrix(box, self.input_size, self.padding, udp=self.udp), False
        change = self.augmentation.draw(
            np.random.default_rng(key), box, self.padding, *person[1:3], self.skeleton
        )
        matrix = crop_matrix(input_size=self.input_size, udp=self.udp, **change._asdict())
        return matrix, change.flip

    def sample(
        self, crop: ImageArray, matrix: FloatArray, flip: bool, person: Person
    ) -> dict[str, Tensor]:
        """The dict described in `CocoKeypoints`."""
        visible = person.visible
        points = transform_points(person.keypoints, matrix) * (visible[:, None] > 0)
        if flip:
            order = list(self.skeleton.flip_indices)
            points, visible = points[order], visible[order]
        numbers = {
            "keypoints": points,
            "visible": visible,
            "box_xyxy": person.box_xyxy,
            "box_score": person.box_score,
            "crop_matrix": matrix,
        }
        ids = {"image_id": person.image_id, "annotation_id": person.annotation_id}
        return {
            "image": torch.from_numpy(crop),
            **{name: torch.from_numpy(np.array(numbers[name], np.float32)) for name in numbers},
            **{name: torch.from_numpy(np.array(ids[name], np.int64)) for name in ids},
        }
