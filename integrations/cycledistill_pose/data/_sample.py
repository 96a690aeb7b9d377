"""From a person in an image to one sample of a batch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cycledistill_pose.data._augmentation import PoseAugmentation, box_reach
from cycledistill_pose.data._crop import crop_matrix, transform_points
from cycledistill_pose.data._people import FloatArray
from cycledistill_pose.data._picture import ImageArray
from cycledistill_pose.skeletons import Skeleton


@dataclass(frozen=True)
class Cropping:
    """How people are cut out of images; see `CocoKeypoints`."""

    skeleton: Skeleton
    input_size: tuple[int, int]
    padding: float
    udp: bool
    augmentation: PoseAugmentation | None

    def draw_matrix(
        self,
        key: tuple[int, ...],
        box_xyxy: FloatArray,
        keypoints: FloatArray,
        visible: FloatArray,
    ) -> tuple[FloatArray, bool]:
        """Image -> input `[2, 3]` and whether left and right are changed; ``key`` seeds it."""
        if self.augmentation is None:
            return crop_matrix(box_xyxy, self.input_size, self.padding, udp=self.udp), False
        change = self.augmentation.draw(
            np.random.default_rng(key), box_xyxy, self.padding, keypoints, visible, self.skeleton
        )
        matrix = crop_matrix(
            change.box_xyxy,
            self.input_size,
            change.padding,
            shift=change.shift,
            scale=change.scale,
            rotation_degrees=change.rotation_degrees,
            flip=change.flip,
            udp=self.udp,
        )
        return matrix, change.flip

    def reach(self, box_xyxy: FloatArray, keypoints: FloatArray, visible: FloatArray) -> FloatArray:
        """The part of the image, `xyxy` `[4]`, that all crops of a person come from."""
        aspect = self.input_size[0] / self.input_size[1]
        if self.augmentation is None:
            return box_reach(box_xyxy, self.padding, aspect)
        return self.augmentation.reach(
            box_xyxy, self.padding, keypoints, visible, self.skeleton, aspect
        )

    def sample(
        self,
        crop: ImageArray,
        matrix: FloatArray,
        flip: bool,
        keypoints: FloatArray,
        visible: FloatArray,
        box_xyxy: FloatArray,
        box_score: float,
        image_id: int,
        annotation_id: int,
    ) -> dict[str, Tensor]:
        """The dict that is described at `CocoKeypoints`."""
        points = transform_points(keypoints, matrix) * (visible[:, None] > 0)
        if flip:
            order = list(self.skeleton.flip_indices)
            points, visible = points[order], visible[order]
        return {
            "image": torch.from_numpy(crop),
            "keypoints": torch.from_numpy(points.astype(np.float32)),
            "visible": torch.from_numpy(visible.astype(np.float32)),
            "box_xyxy": torch.from_numpy(box_xyxy.astype(np.float32)),
            "box_score": torch.from_numpy(np.array(box_score, np.float32)),
            "image_id": torch.from_numpy(np.array(image_id, np.int64)),
            "annotation_id": torch.from_numpy(np.array(annotation_id, np.int64)),
            "crop_matrix": torch.from_numpy(matrix.astype(np.float32)),
        }
