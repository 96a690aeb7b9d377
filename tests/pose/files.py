"""Annotation files of people, as COCO has them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from cycledistill_pose.skeletons import COCO


def labelled(number: int, image: int, box: Any, keypoints: Any, **more: Any) -> dict[str, Any]:
    """A person's annotation; ``box`` is x, y, width, height, ``keypoints`` `[K, 3]`, both in px."""
    points = np.asarray(keypoints, dtype=float).reshape(-1, 3)
    return {
        "id": number,
        "image_id": image,
        "category_id": 1,
        "bbox": [float(value) for value in box],
        "area": float(box[2] * box[3]),
        "iscrowd": 0,
        "num_keypoints": int((points[:, 2] > 0).sum()),
        "keypoints": points.ravel().tolist(),
        **more,
    }


def coco_file(
    people: list[dict[str, Any]],
    images: Sequence[str | None],
    size: tuple[int, int] | None = None,
    names: Sequence[str] | None = COCO.keypoint_names,
) -> dict[str, Any]:
    """People in images 1, 2, ... with these file names, all of one width and height in px."""
    sized = {} if size is None else {"width": size[0], "height": size[1]}
    return {
        "images": [{"id": n, "file_name": name, **sized} for n, name in enumerate(images, 1)],
        "annotations": people,
        "categories": [
            {"id": 1, "name": "person", **({} if names is None else {"keypoints": list(names)})}
        ],
    }
