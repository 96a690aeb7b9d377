"""Reading the boxes of a person detector."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cycledistill_pose.data._annotations import NOT_LISTED, image_index, load_json
from cycledistill_pose.data._people import People
from cycledistill_pose.skeletons import Skeleton


def read_detections(
    content: dict[str, Any],
    title: str,
    category: dict[str, Any],
    skeleton: Skeleton,
    counts: Counter[str],
    detections: Any,
    threshold: float,
) -> People:
    """Boxes of a detector: a list of image_id, category_id, bbox (xywh) and score."""
    boxes, source = load_json(detections, "detections")
    if not isinstance(boxes, Sequence) or not all(isinstance(b, Mapping) for b in boxes):
        raise ValueError(f"{source} must be a list of objects with image_id, bbox and score")
    images = image_index(content, title)
    people = People.of_images(content["images"], skeleton, counts)
    rows: list[tuple[int, list[float], float]] = []
    for number, entry in enumerate(boxes):
        lacking = [key for key in ("image_id", "bbox", "score") if key not in entry]
        if lacking:
            raise ValueError(f"{source}: entry {number} has no {', '.join(lacking)}")
        counts["detections"] += 1
        if entry.get("category_id", category["id"]) != category["id"]:
            counts["skipped: other category"] += 1
            continue
        index = images.get(entry["image_id"])
        if index is None:
            counts[NOT_LISTED] += 1
            continue
        if entry["score"] < threshold:
            counts["skipped: score below the threshold"] += 1
            continue
        x, y, w, h = (float(value) for value in entry["bbox"])
        if not (all(math.isfinite(v) for v in (x, y, w, h)) and w > 0 and h > 0):
            counts["skipped: no box or an empty one"] += 1
            continue
        rows.append((index, [x, y, x + w, y + h], float(entry["score"])))
    other = counts[NOT_LISTED]
    if other and other == counts["detections"] - counts["skipped: other category"]:
        raise ValueError(
            f"{source} is for other images: none of its {counts['detections']} boxes is in an "
            f"image of {title} (its first image_id is {boxes[0]['image_id']})"
        )
    count = len(rows)
    people.image_index = np.array([row[0] for row in rows], dtype=np.int64)
    people.annotation_ids = np.full(count, -1, dtype=np.int64)
    people.boxes_xyxy = np.array([row[1] for row in rows], dtype=np.float64).reshape(count, 4)
    people.scores = np.array([row[2] for row in rows], dtype=np.float32)
    people.keypoints = np.zeros((count, skeleton.num_keypoints, 2))
    people.visible = np.zeros((count, skeleton.num_keypoints), dtype=np.float32)
    return people
