"""People as pycocotools wants them."""

from __future__ import annotations

import contextlib
import io

import numpy as np
from numpy.typing import NDArray
from pycocotools.coco import COCO as CocoFile

from cycledistill_pose.annotations import AnnotatedPeople, KeypointFile

# Area of a person by area of the box, where no outline is annotated (CrowdPose).
BOX_FILL = 0.53


def annotated_areas(people: AnnotatedPeople) -> NDArray[np.float64]:
    """`[N]` the annotations' own areas, or 0.53 of the boxes of those that have none."""
    return np.where(np.isnan(people.areas), box_areas(people), people.areas)


def box_areas(people: AnnotatedPeople) -> NDArray[np.float64]:
    """`[N]` 0.53 of the annotations' boxes, as CrowdPose's own tool takes it."""
    boxes = _boxes(people)
    return np.asarray(boxes[:, 2] * boxes[:, 3] * BOX_FILL)


def ground_truth(file: KeypointFile, areas: NDArray[np.float64], num_keypoints: int) -> CocoFile:
    """Images, people and their category, as a new pycocotools object.

    The people are those of the file, in their order. They get new ids from 1 on, because
    pycocotools takes a match with annotation 0 for none; their own ids stay as `annotation_id`.
    """
    people = file.people
    points = people.keypoints
    if points.shape[1] == 0:
        points = np.zeros((len(people), num_keypoints, 3))
    rows = zip(
        people.image_ids.tolist(),
        people.ids.tolist(),
        _boxes(people).tolist(),
        areas.tolist(),
        people.crowd.tolist(),
        people.num_labelled.tolist(),
        points.reshape(len(people), 3 * num_keypoints).tolist(),
        strict=True,
    )
    coco = CocoFile()
    coco.dataset = {
        "info": {},
        "images": [{"id": image.id, "crowdIndex": image.crowd_index} for image in file.images],
        "categories": [{"id": file.category.id, "name": file.category.name}],
        "annotations": [
            {
                "id": number,
                "annotation_id": own,
                "image_id": image,
                "category_id": file.category.id,
                "bbox": box,
                "area": area,
                "iscrowd": int(crowd),
                "num_keypoints": labelled,
                "keypoints": keypoints,
            }
            for number, (image, own, box, area, crowd, labelled, keypoints) in enumerate(rows, 1)
        ],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco


def _boxes(people: AnnotatedPeople) -> NDArray[np.float64]:
    """`[N, 4]` xywh: the annotations' own boxes, or those around labelled keypoints, or nothing."""
    boxes = people.boxes_xywh.copy()
    for row in np.flatnonzero(np.isnan(boxes).any(1)):
        points = people.keypoints[row]
        points = points[points[:, 2] > 0, :2]
        corner, end = (points.min(0), points.max(0)) if len(points) else (np.zeros(2), np.zeros(2))
        boxes[row] = [*corner, *(end - corner)]
    return boxes
