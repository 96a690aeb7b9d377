"""Annotations in the form that pycocotools needs."""

from __future__ import annotations

import contextlib
import io

import numpy as np
from numpy.typing import NDArray
from pycocotools.coco import COCO as CocoFile

from cycledistill_pose.annotations import AnnotatedPeople, KeypointFile

# Area of a person by area of the box, where no outline is annotated (CrowdPose).
BOX_FILL = 0.53


def ground_truth(file: KeypointFile, num_keypoints: int, annotated_areas: bool) -> CocoFile:
    """Images, people and their category, as a new pycocotools object.

    The people are those of the file, in their order. They get new ids from 1 on, because
    pycocotools takes a match with annotation 0 for none; their own ids stay as `annotation_id`.
    Their areas are the annotations' own, or 0.53 of the boxes: of those that have none, or of all.
    """
    people = file.people
    boxes = _boxes(people)
    areas = boxes[:, 2] * boxes[:, 3] * BOX_FILL
    if annotated_areas:
        areas = np.where(np.isnan(people.areas), areas, people.areas)
    points = people.keypoints
    if points.shape[1] == 0:
        points = np.zeros((len(people), num_keypoints, 3))
    columns = {
        "annotation_id": people.ids,
        "image_id": people.image_ids,
        "bbox": boxes,
        "area": areas,
        "iscrowd": people.crowd.astype(int),
        "num_keypoints": people.num_labelled,
        "keypoints": points.reshape(len(people), 3 * num_keypoints),
    }
    rows = zip(*(column.tolist() for column in columns.values()), strict=True)
    category = file.category.id
    coco = CocoFile()
    coco.dataset = {
        "info": {},
        "images": [{"id": image.id, "crowdIndex": image.crowd_index} for image in file.images],
        "categories": [{"id": category, "name": file.category.name}],
        "annotations": [
            {"id": number, "category_id": category, **dict(zip(columns, row, strict=True))}
            for number, row in enumerate(rows, 1)
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
