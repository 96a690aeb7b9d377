"""The people, or detected boxes, behind a dataset, and who is left out of it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PureWindowsPath
from typing import Any

import numpy as np

from cycledistill_pose.annotations import Box, BoxFile, KeypointFile, ListedImage
from cycledistill_pose.annotations._boxes import to_xyxy
from cycledistill_pose.annotations._people import BoolArray, IntArray
from cycledistill_pose.annotations._values import FloatArray
from cycledistill_pose.data._sample import Person

NOT_LISTED = "skipped: image_id is not in the file"
_NO_BOX = "skipped: no box or an empty one"
_NO_KEYPOINTS = "skipped: no labelled keypoints"


@dataclass
class People:
    """One entry for each box that will be cropped.

    Attributes:
        images: All images of the file.
        image_index: `[N]` which image each box is in.
        rows: `[N]` which annotation of the file each box is of, -1 for boxes of a detector.
        annotation_ids: `[N]` the file's, -1 where it has none and for boxes of a detector.
        boxes_xyxy: `[N, 4]` px of the image.
        scores: `[N]` of the boxes, 1 for ground truth.
        keypoints: `[N, K, 2]` px of the image, 0 where not labelled.
        visible: `[N, K]` 1 where labelled.
        counts: What was read and what was left out, and why.
    """

    images: tuple[ListedImage, ...]
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
        places = {image.id: place for place, image in enumerate(_named(file))}
        index = np.array([places.get(i, -1) for i in truth.image_ids.tolist()], dtype=np.int64)
        sizes = _sizes(file, index)
        points = truth.keypoints.copy()
        boxes = clip_boxes(truth.boxes_xywh, sizes)
        with np.errstate(invalid="ignore"):
            boxless = np.asarray(~(boxes[:, 2:] > boxes[:, :2]).all(1))
            no_area = np.asarray(truth.areas <= 0)
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
        leave_out("skipped: its area is 0", no_area)
        outside = _outside(points, sizes) & left[:, None]
        counts["keypoints outside of their image"] += int(outside.sum())
        points[outside] = 0
        counts += count_strange(truth.boxes_xywh[left], sizes[left], points[left])
        leave_out(_NO_KEYPOINTS, ~(points[..., 2] > 0).any(1))
        rows = np.flatnonzero(left)
        visible = (points[rows, :, 2] > 0).astype(np.float32)
        return cls(
            images=file.images,
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
        places: dict[Any, list[int]] = defaultdict(list)
        for number, image in enumerate(_named(file)):
            for key in (image.file_name, image.id):
                places[key].append(number)
        counts: Counter[str] = Counter({"detections": len(detections.boxes)})
        kept, index = [], []
        for box in detections.boxes:
            place = _place(box, places, file, detections)
            if box.category_id not in (None, file.category.id):
                counts["skipped: other category"] += 1
            elif place is None:
                counts[NOT_LISTED] += 1
            elif box.crowd:
                counts["skipped: crowd"] += 1
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
        counts += count_strange(xywh, _sizes(file, image_index), np.zeros((count, k, 3)))
        return cls(
            images=file.images,
            image_index=image_index,
            rows=np.full(count, -1),
            annotation_ids=np.full(count, -1),
            boxes_xyxy=to_xyxy(kept),
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
            self.images[self.image_index[index]].id,
            int(self.annotation_ids[index]),
        )

    def used_images(self) -> list[ListedImage]:
        """The images with people in them."""
        return [self.images[i] for i in np.unique(self.image_index)]

    def drop_images(self, ids: set[int], reason: str) -> None:
        """Drop all people in these images, and count them."""
        keep = np.array([self.images[i].id not in ids for i in self.image_index], dtype=bool)
        self.counts[reason] += int((~keep).sum())
        for name, values in vars(self).items():
            if isinstance(values, np.ndarray):
                setattr(self, name, values[keep])


def clip_boxes(boxes_xywh: FloatArray, sizes: IntArray) -> FloatArray:
    """`xyxy` `[N, 4]` inside of the images, up to the centres of the outer pixels.

    The right edge is x + w for boxes that begin outside of the image, too, as in MMPose 1.x;
    MMPose 0.x lets these keep their width, and so moves their right edge.
    """
    sized = (sizes > 0).all(1, keepdims=True)
    ends = boxes_xywh[:, :2] + boxes_xywh[:, 2:]
    ends = np.where(sized, np.minimum(ends, sizes - 1.0), ends)
    return np.concatenate([np.maximum(boxes_xywh[:, :2], 0.0), ends], axis=1)


def _place(
    box: Box, places: Mapping[Any, Sequence[int]], file: KeypointFile, detections: BoxFile
) -> int | None:
    """Which image of a file a box is in, by its id, or by its file name if it has none."""
    key = box.file_name if box.image_id is None else box.image_id
    found = places.get(key, ())
    if not found:
        return None
    if len(found) > 1:
        ids = " or ".join(str(file.images[place].id) for place in found)
        raise ValueError(
            f"{detections.title}: file_name {key!r} could be image {ids} of {file.title}; expected "
            "an image_id"
        )
    path, name = detections.path_of(box), str(file.images[found[0]].file_name)
    if path and PureWindowsPath(path).stem != PureWindowsPath(name).stem:
        raise ValueError(
            f"{detections.title}: image {key} is {path!r}, but {name!r} in {file.title}; expected "
            "boxes with the ids of its images"
        )
    return found[0]


def _named(file: KeypointFile) -> tuple[ListedImage, ...]:
    """The images, all of which must have a file name."""
    for image in file.images:
        if image.file_name is None:
            raise ValueError(f"{file.title}: image {image.id} has no file_name")
    return file.images


def _sizes(file: KeypointFile, index: IntArray) -> IntArray:
    """`[N, 2]` width and height of these images; 0 if unknown, or if the index is -1."""
    sizes = [(image.width, image.height) for image in file.images]
    return np.array([*sizes, (0, 0)], dtype=np.int64)[index]


def _outside(points: FloatArray, sizes: IntArray) -> BoolArray:
    """`[N, K]` which labelled keypoints are more than a pixel outside their image."""
    fine = ((points[..., :2] >= -1) & (points[..., :2] <= sizes[:, None])).all(-1)
    sized = (sizes > 0).all(1, keepdims=True)
    return np.asarray((points[..., 2] > 0) & sized & ~fine)


def count_strange(boxes_xywh: FloatArray, sizes: IntArray, points: FloatArray) -> Counter[str]:
    """How many keypoints are outside of their box, and boxes not x, y, width, height in px.

    Boxes `[N, 4]` are as in the file, sizes `[N, 2]` of their images (0 where unknown), points
    `[N, K, 3]` x, y and above 0 where labelled.

    >>> box, size = np.array([[200.0, 300.0, 260.0, 380.0]]), np.array([[400, 600]])
    >>> count_strange(box, size, np.array([[[210.0, 310, 2], [250, 370, 2]]]))
    Counter({'boxes that look like xyxy, not xywh': 1})
    """
    start, sides = boxes_xywh[:, None, :2], boxes_xywh[:, None, 2:]
    places, labelled = points[..., :2], points[..., 2] > 0
    inside = ((places >= start - 1) & (places <= start + sides + 1)).all(-1)
    # Read as xyxy, a box holds all its keypoints; read as xywh it is twice as long and wide as they
    # spread, or leaves the image.
    inside_xyxy = ((places >= start - 1) & (places <= sides + 1)).all(-1) | ~labelled
    xyxy = inside_xyxy.all(1) & (boxes_xywh[:, 2:] > boxes_xywh[:, :2]).all(1)
    hidden = np.broadcast_to(~labelled[..., None], places.shape)
    spread = np.ma.ptp(np.ma.array(places, mask=hidden), axis=1).filled(-1.0)
    length = boxes_xywh[:, 2:] - boxes_xywh[:, :2]
    tight = ((spread > length / 2) & (spread < boxes_xywh[:, 2:] / 2)).all(1)
    known = (sizes > 0).all(1, keepdims=True)
    beyond = (boxes_xywh[:, :2] + boxes_xywh[:, 2:] > 1.05 * sizes + 1) & known
    fits = ((boxes_xywh[:, 2:] <= sizes + 1) | ~known).all(1)
    xyxy &= tight | (beyond.any(1) & fits)
    parts = (boxes_xywh <= 1).all(1) & (boxes_xywh[:, 2:] > 0).all(1)
    return Counter(
        {
            name: int(count)
            for name, count in (
                ("keypoints outside of their box", (labelled & ~inside).sum()),
                ("boxes that look like xyxy, not xywh", (xyxy & ~parts).sum()),
                ("boxes that look like 0..1, not px", parts.sum()),
            )
            if count
        }
    )
