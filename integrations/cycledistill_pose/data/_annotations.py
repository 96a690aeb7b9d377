"""Reading COCO-format keypoint files."""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cycledistill_pose.data._people import FloatArray, IntArray, People
from cycledistill_pose.skeletons import Skeleton

NOT_LISTED = "skipped: image_id is not in the file"
JsonSource = str | os.PathLike[str] | Mapping[str, Any]


def load_json(source: Any, title: str) -> tuple[Any, str]:
    """The content of a JSON file, or the object itself, and a name for messages."""
    if not isinstance(source, str | os.PathLike):
        return source, f"the {title} given"
    path = Path(source)
    if not path.is_file():
        raise FileNotFoundError(f"{title}: there is no file {path}")
    try:
        return json.loads(path.read_bytes()), str(path)
    except ValueError as error:
        raise ValueError(f"{title}: {path} is not a JSON file ({error})") from error


def merge_files(sources: Sequence[JsonSource]) -> tuple[dict[str, Any], str]:
    """Join the images and annotations of several files with the same categories."""
    loaded = [load_json(source, "annotations") for source in sources]
    for content, title in loaded:
        if not isinstance(content, Mapping) or "images" not in content:
            raise ValueError(f'{title} is not in COCO format: it has no "images"')
    title = " + ".join(name for _, name in loaded)
    merged: dict[str, Any] = {
        "images": [image for content, _ in loaded for image in content["images"]],
        "annotations": [a for content, _ in loaded for a in content.get("annotations") or []],
        "categories": loaded[0][0].get("categories") or [],
    }
    repeated = [i for i, n in Counter(image["id"] for image in merged["images"]).items() if n > 1]
    if repeated:
        raise ValueError(f"{title}: {len(repeated)} image ids repeat, {repeated[0]} among them")
    return merged, title


def pick_category(content: dict[str, Any], title: str, category: str | None) -> dict[str, Any]:
    """The category whose keypoints are read: the one named, or the only one with keypoints."""
    categories = content["categories"]
    names = [str(entry.get("name")) for entry in categories]
    if category is not None:
        if category not in names:
            raise ValueError(f"{title} has no category {category!r}, only {names}")
        return dict(categories[names.index(category)])
    chosen = [entry for entry in categories if entry.get("keypoints")]
    if not chosen and len(categories) == 1:
        chosen = categories
    if len(chosen) != 1:
        found = [str(entry.get("name")) for entry in chosen]
        raise ValueError(
            f"{title}: say which category to read; {len(chosen)} of its {len(categories)} "
            f"categories have keypoint names: {found}"
        )
    return dict(chosen[0])


def read_people(
    content: dict[str, Any],
    title: str,
    category: dict[str, Any],
    skeleton: Skeleton,
    counts: Counter[str],
) -> People:
    """Ground-truth people: those with labelled keypoints and a box, without crowds."""
    images = image_index(content, title)
    people = People.of_images(content["images"], skeleton, counts)
    rows: list[tuple[int, int, list[float], FloatArray]] = []
    for annotation in content["annotations"]:
        counts["annotations"] += 1
        if annotation.get("category_id", category["id"]) != category["id"]:
            counts["skipped: other category"] += 1
            continue
        if annotation.get("iscrowd", 0):
            counts["skipped: crowd"] += 1
            continue
        values = annotation.get("keypoints") or []
        if values and len(values) != 3 * skeleton.num_keypoints:
            raise ValueError(
                f"{title}: annotation {annotation.get('id')} has {len(values)} keypoint numbers, "
                f"but {skeleton.num_keypoints} keypoints of {skeleton.name!r} need "
                f"{3 * skeleton.num_keypoints}"
            )
        points = np.array(values, dtype=np.float64).reshape(-1, 3)
        if not (points[:, 2] > 0).any() or annotation.get("num_keypoints", 1) == 0:
            counts["skipped: no labelled keypoints"] += 1
            continue
        index = images.get(annotation["image_id"])
        if index is None:
            counts[NOT_LISTED] += 1
            continue
        box = clip_box(annotation.get("bbox"), people.sizes[index])
        if box is None or annotation.get("area", 1) <= 0:
            counts["skipped: no box or an empty one"] += 1
            continue
        outside = _outside(points, people.sizes[index])
        counts["keypoints outside of their image"] += int(outside.sum())
        points[outside] = 0
        if outside.any() and not (points[:, 2] > 0).any():
            counts["skipped: no labelled keypoints"] += 1
            continue
        rows.append((index, int(annotation.get("id", -1)), box, points))
    count = len(rows)
    people.image_index = np.array([row[0] for row in rows], dtype=np.int64)
    people.annotation_ids = np.array([row[1] for row in rows], dtype=np.int64)
    people.boxes_xyxy = np.array([row[2] for row in rows], dtype=np.float64).reshape(count, 4)
    people.scores = np.ones(count, dtype=np.float32)
    stacked = np.array([row[3] for row in rows]).reshape(count, skeleton.num_keypoints, 3)
    people.visible = (stacked[..., 2] > 0).astype(np.float32)
    people.keypoints = stacked[..., :2] * people.visible[..., None]
    return people


def clip_box(bbox_xywh: Any, size: IntArray) -> list[float] | None:
    """`xyxy` of a box inside of its image, up to the centres of the outer pixels; or None.

    The right edge is x + w for boxes that begin outside of the image, too, as in MMPose 1.x;
    MMPose 0.x lets these keep their width, and so moves their right edge.
    """
    if bbox_xywh is None or len(bbox_xywh) != 4:
        return None
    x, y, w, h = (float(value) for value in bbox_xywh)
    if not all(math.isfinite(value) for value in (x, y, w, h)):
        return None
    right, bottom = x + w, y + h
    if size[0] > 0 and size[1] > 0:
        right, bottom = min(right, float(size[0]) - 1), min(bottom, float(size[1]) - 1)
    left, top = max(x, 0.0), max(y, 0.0)
    return [left, top, right, bottom] if right > left and bottom > top else None


def _outside(points: FloatArray, size: IntArray) -> npt.NDArray[np.bool_]:
    """Which labelled keypoints are more than a pixel out of the image, or no numbers."""
    labelled = points[:, 2] > 0
    fine = np.isfinite(points).all(1)
    if size[0] > 0 and size[1] > 0:
        fine &= (points[:, :2] >= -1).all(1) & (points[:, :2] <= size).all(1)
    return np.asarray(labelled & ~fine)


def image_index(content: dict[str, Any], title: str) -> dict[int, int]:
    index = {}
    for number, image in enumerate(content["images"]):
        if not isinstance(image.get("id"), int):
            raise ValueError(f"{title}: image ids must be integers, got {image.get('id')!r}")
        if "file_name" not in image:
            raise ValueError(f"{title}: image {image['id']} has no file_name")
        index[image["id"]] = number
    return index
