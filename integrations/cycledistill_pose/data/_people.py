"""The people, or detected boxes, behind a dataset, and who is left out of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cycledistill_pose.annotations import BoxFile, KeypointFile
from cycledistill_pose.annotations._people import BoolArray, IntArray
from cycledistill_pose.annotations._values import FloatArray
from cycledistill_pose.data._sample import Person
from cycledistill_pose.data._sanity import count_strange
from cycledistill_pose.skeletons import Skeleton

NOT_LISTED = "skipped: image_id is not in the file"
_NO_BOX = "skipped: no box or an empty one"
_NO_KEYPOINTS = "skipped: no labelled keypoints"


@dataclass
class People:
    """One entry for each box that will be cropped.

    Attributes:
        skeleton: The keypoints.
        names: File name of each image.
        sizes: `[I, 2]` width and height of each image, 0 where the file does not say.
        image_ids: `[I]`.
        image_index: `[N]` which image each box is in.
        rows: `[N]` which annotation of the file each box is of, -1 for boxes of a detector.
        annotation_ids: `[N]` the file's, -1 where it has none and for boxes of a detector.
        boxes_xyxy: `[N, 4]` px of the image.
        scores: `[N]` of the boxes, 1 for ground truth.
        keypoints: `[N, K, 2]` px of the image, 0 where not labelled.
        visible: `[N, K]` 1 where labelled.
        counts: What was read and what was left out, and why.
    """

    skeleton: Skeleton
    names: list[str]
    sizes: IntArray
    image_ids: IntArray
    image_index: IntArray
    rows: IntArray
    annotation_ids: IntArray
    boxes_xyxy: FloatArray
    scores: FloatArray
    keypoints: FloatArray
    visible: FloatArray
    counts: Counter[str]

    @classmethod
    def annotated(cls, file: KeypointFile) -> People:
        """Ground truth: people with labelled keypoints and a box, without crowds."""
        truth = file.people
        names, sizes, image_ids = _images(file)
        index = _index_of(truth.image_ids, image_ids)
        own_sizes = np.concatenate([sizes, np.zeros((1, 2), np.int64)])[index]
        points = truth.keypoints.copy()
        boxes = clip_boxes(truth.boxes_xywh, own_sizes)
        with np.errstate(invalid="ignore"):
            boxless = ~(boxes[:, 2:] > boxes[:, :2]).all(1) | (truth.areas <= 0)
        counts = Counter(file.counts)
        left = np.ones(len(truth), dtype=bool)

        def leave_out(reason: str, whom: BoolArray) -> None:
            counts[reason] += int((left & whom).sum())
            left[whom] = False

        leave_out("skipped: crowd", truth.crowd)
        unlabelled = ~(points[..., 2] > 0).any(1) | (truth.num_labelled == 0)
        leave_out(_NO_KEYPOINTS, unlabelled)
        leave_out(NOT_LISTED, index < 0)
        leave_out(_NO_BOX, boxless)
        outside = _outside(points, own_sizes) & left[:, None]
        counts["keypoints outside of their image"] += int(outside.sum())
        points[outside] = 0
        counts += count_strange(truth.boxes_xywh[left], own_sizes[left], points[left])
        leave_out(_NO_KEYPOINTS, ~(points[..., 2] > 0).any(1))
        rows = np.flatnonzero(left)
        visible = (points[rows, :, 2] > 0).astype(np.float32)
        return cls(
            skeleton=file.skeleton,
            names=names,
            sizes=sizes,
            image_ids=image_ids,
            image_index=index[rows],
            rows=rows,
            annotation_ids=truth.ids[rows],
            boxes_xyxy=boxes[rows],
            scores=np.ones(len(rows), dtype=np.float32),
            keypoints=points[rows, :, :2] * visible[..., None],
            visible=visible,
            counts=counts,
        )

    @classmethod
    def detected(cls, file: KeypointFile, detections: BoxFile, threshold: float) -> People:
        """Boxes of a detector, in the images of a file."""
        names, sizes, image_ids = _images(file)
        places: dict[Any, int] = {name: place for place, name in enumerate(names)}
        places |= {int(number): place for place, number in enumerate(image_ids)}
        counts: Counter[str] = Counter({"detections": len(detections.boxes)})
        kept, index = [], []
        for box in detections.boxes:
            place = places.get(box.file_name if box.image_id is None else box.image_id)
            if box.category_id not in (None, file.category.id):
                counts["skipped: other category"] += 1
            elif place is None:
                counts[NOT_LISTED] += 1
            elif box.score < threshold:
                counts["skipped: score below the threshold"] += 1
            elif not box.has_extent:
                counts[_NO_BOX] += 1
            else:
                kept.append(box)
                index.append(place)
        other = counts[NOT_LISTED]
        if other and other == len(detections.boxes) - counts["skipped: other category"]:
            raise ValueError(
                f"{detections.title} is for other images: none of its {len(detections.boxes)} "
                f"boxes is in an image of {file.title} "
                f"(its first image_id is {detections.boxes[0].image_id!r})"
            )
        count, k = len(kept), file.skeleton.num_keypoints
        image_index = np.array(index, dtype=np.int64)
        xywh = np.array([box.xywh for box in kept], dtype=np.float64).reshape(count, 4)
        counts += count_strange(xywh, sizes[image_index], np.zeros((count, k, 3)))
        return cls(
            skeleton=file.skeleton,
            names=names,
            sizes=sizes,
            image_ids=image_ids,
            image_index=image_index,
            rows=np.full(count, -1),
            annotation_ids=np.full(count, -1),
            boxes_xyxy=np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1),
            scores=np.array([box.score for box in kept], dtype=np.float32),
            keypoints=np.zeros((count, k, 2)),
            visible=np.zeros((count, k), dtype=np.float32),
            counts=counts,
        )

    def __len__(self) -> int:
        return len(self.image_index)

    def person(self, index: int) -> Person:
        """One of them."""
        return Person(
            self.boxes_xyxy[index],
            self.keypoints[index],
            self.visible[index],
            float(self.scores[index]),
            int(self.image_ids[self.image_index[index]]),
            int(self.annotation_ids[index]),
        )

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
        fields = ("image_index", "rows", "annotation_ids", "boxes_xyxy", "scores", "keypoints")
        for field in (*fields, "visible"):
            setattr(self, field, getattr(self, field)[keep])


def clip_boxes(boxes_xywh: FloatArray, sizes: IntArray) -> FloatArray:
    """`xyxy` `[N, 4]` inside of the images, up to the centres of the outer pixels.

    The right edge is x + w for boxes that begin outside of the image, too, as in MMPose 1.x;
    MMPose 0.x lets these keep their width, and so moves their right edge.
    """
    sized = (sizes > 0).all(1, keepdims=True)
    ends = boxes_xywh[:, :2] + boxes_xywh[:, 2:]
    ends = np.where(sized, np.minimum(ends, sizes - 1.0), ends)
    return np.concatenate([np.maximum(boxes_xywh[:, :2], 0.0), ends], axis=1)


def _images(file: KeypointFile) -> tuple[list[str], IntArray, IntArray]:
    """File names, sizes `[I, 2]` and ids `[I]`."""
    nameless: Sequence[int] = [image.id for image in file.images if image.file_name is None]
    if nameless:
        raise ValueError(f"{file.title}: image {nameless[0]} has no file_name")
    sizes = [[image.width, image.height] for image in file.images]
    return (
        [str(image.file_name) for image in file.images],
        np.array(sizes, dtype=np.int64).reshape(-1, 2),
        np.array([image.id for image in file.images], dtype=np.int64),
    )


def _index_of(wanted: IntArray, image_ids: IntArray) -> IntArray:
    """`[N]` the place of each wanted id, -1 where there is none."""
    places = {number: place for place, number in enumerate(image_ids.tolist())}
    return np.array([places.get(number, -1) for number in wanted.tolist()], dtype=np.int64)


def _outside(points: FloatArray, sizes: IntArray) -> BoolArray:
    """`[N, K]` which labelled keypoints are more than a pixel out of the image."""
    fine = ((points[..., :2] >= -1) & (points[..., :2] <= sizes[:, None])).all(-1)
    sized = (sizes > 0).all(1, keepdims=True)
    return np.asarray((points[..., 2] > 0) & sized & ~fine)
