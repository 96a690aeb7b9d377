"""The arrays behind a dataset of people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cycledistill_pose.skeletons import Skeleton

FloatArray = npt.NDArray[np.floating[Any]]
IntArray = npt.NDArray[np.integer[Any]]
BoolArray = npt.NDArray[np.bool_]


@dataclass
class People:
    """One entry for each box that will be cropped.

    Attributes:
        skeleton: what the keypoints are.
        names: file name of each image.
        sizes: `[I, 2]` width and height of each image, 0 where the file does not say.
        image_ids: `[I]`.
        image_index: `[N]` which image each box is in.
        annotation_ids: `[N]`, -1 for boxes of a detector.
        boxes_xyxy: `[N, 4]` px of the image.
        scores: `[N]` of the boxes, 1 for ground truth.
        keypoints: `[N, K, 2]` px of the image, 0 where not labelled.
        visible: `[N, K]` 1 where labelled.
        counts: what was read and what was left out, and why.
    """

    skeleton: Skeleton
    names: list[str]
    sizes: IntArray
    image_ids: IntArray
    image_index: IntArray
    annotation_ids: IntArray
    boxes_xyxy: FloatArray
    scores: FloatArray
    keypoints: FloatArray
    visible: FloatArray
    counts: Counter[str]

    @classmethod
    def of_images(
        cls, images: Sequence[Mapping[str, Any]], skeleton: Skeleton, counts: Counter[str]
    ) -> People:
        """Nobody yet, in these images."""
        count = skeleton.num_keypoints
        sizes = [[image.get("width") or 0, image.get("height") or 0] for image in images]
        return cls(
            skeleton=skeleton,
            names=[str(image["file_name"]) for image in images],
            sizes=np.array(sizes, dtype=np.int64).reshape(-1, 2),
            image_ids=np.array([image["id"] for image in images], dtype=np.int64),
            image_index=np.zeros(0, dtype=np.int64),
            annotation_ids=np.zeros(0, dtype=np.int64),
            boxes_xyxy=np.zeros((0, 4)),
            scores=np.zeros(0, dtype=np.float32),
            keypoints=np.zeros((0, count, 2)),
            visible=np.zeros((0, count), dtype=np.float32),
            counts=counts,
        )

    def __len__(self) -> int:
        return len(self.image_index)

    def claimed_size(self, image_index: int) -> tuple[int, int] | None:
        """(width, height) of an image by its file, or None where that says nothing."""
        width, height = (int(side) for side in self.sizes[image_index])
        return (width, height) if width > 0 and height > 0 else None

    def used_names(self) -> list[str]:
        """File names of the images that somebody is in."""
        return [self.names[i] for i in np.unique(self.image_index)]

    def drop_images(self, names: set[str], reason: str) -> None:
        """Leave out everybody in these images and count them."""
        keep = np.array([self.names[i] not in names for i in self.image_index], dtype=bool)
        self.counts[reason] += int((~keep).sum())
        for field in ("image_index", "annotation_ids", "boxes_xyxy", "scores", "keypoints"):
            setattr(self, field, getattr(self, field)[keep])
        self.visible = self.visible[keep]
