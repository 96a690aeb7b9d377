"""Annotation files, made ready for pycocotools."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from pycocotools.coco import COCO as CocoFile

# The path of a COCO file, its contents, or pycocotools' object of it.
Annotations: TypeAlias = "str | Path | Mapping[str, Any] | CocoFile"

# Area of a person by area of the box, where nobody has drawn the outline (CrowdPose).
BOX_FILL = 0.53


def annotated_area(annotation: Mapping[str, Any]) -> float:
    """The annotation's own area, or 0.53 of its box where it has none."""
    area = annotation.get("area")
    return box_area(annotation) if area is None else float(area)


def box_area(annotation: Mapping[str, Any]) -> float:
    """0.53 of the annotation's box, as CrowdPose's own tool takes it."""
    return float(annotation["bbox"][2] * annotation["bbox"][3] * BOX_FILL)


def load_ground_truth(
    annotations: Annotations, area: Callable[[Mapping[str, Any]], float]
) -> CocoFile:
    """Images, people and the one category with keypoints, as a new pycocotools object.

    What was given stays as it was. People get the area that `area` finds, the flags that
    pycocotools asks for, and new ids from 1 on, because pycocotools takes a match with
    annotation 0 for none; their own ids stay as `annotation_id`.

    Raises:
        FileNotFoundError: when there is no such file.
        TypeError: when annotations are of another type.
        ValueError: when it is not a COCO keypoint file; says what is missing.
    """
    contents, source = _read(annotations)
    for field in ("images", "categories"):
        if not isinstance(contents.get(field), list):
            raise ValueError(f"{source} has no list {field!r}; a COCO keypoint file has one")
    category = _keypoint_category(contents["categories"], source)
    strange = [image["id"] for image in contents["images"] if not isinstance(image["id"], int)]
    if strange:
        raise ValueError(f"{source}: image ids must be integers, got {strange[0]!r}")

    people: list[dict[str, Any]] = []
    for annotation in contents.get("annotations", []):
        if annotation["category_id"] != category["id"]:
            continue
        lacking = [field for field in ("keypoints", "bbox") if field not in annotation]
        if lacking:
            raise ValueError(
                f"{source}: annotation {annotation.get('id')} has no {lacking[0]!r}; "
                "is it a file of keypoints?"
            )
        person = {"iscrowd": 0, **annotation, "id": len(people) + 1, "area": area(annotation)}
        person["annotation_id"] = annotation.get("id")
        labelled = int(np.count_nonzero(np.asarray(annotation["keypoints"][2::3]) > 0))
        person.setdefault("num_keypoints", labelled)
        people.append(person)

    coco = CocoFile()
    coco.dataset = {
        "info": contents.get("info", {}),
        "images": list(contents["images"]),
        "categories": [category],
        "annotations": people,
    }
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco


def _read(annotations: Annotations) -> tuple[Mapping[str, Any], str]:
    """The contents of the file, and what to call it in messages."""
    if isinstance(annotations, CocoFile):
        return annotations.dataset, "annotations"
    if isinstance(annotations, Mapping):
        return annotations, "annotations"
    if not isinstance(annotations, str | Path):
        raise TypeError(
            "annotations must be the path of a COCO file, its contents as a dict, or a "
            f"pycocotools COCO, got {type(annotations).__name__}"
        )
    path = Path(annotations)
    if not path.is_file():
        raise FileNotFoundError(f"annotations: there is no file {path}")
    try:
        contents = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"annotations: {path} is not JSON: {error}") from error
    if not isinstance(contents, dict):
        raise ValueError(
            f"annotations: {path} holds a {type(contents).__name__}, a COCO file is an object "
            "(a list is a file of detections or results)"
        )
    return contents, f"annotations: {path}"


def _keypoint_category(categories: list[dict[str, Any]], source: str) -> dict[str, Any]:
    named = [category for category in categories if category.get("keypoints")]
    candidates = named or categories
    if len(candidates) != 1:
        raise ValueError(
            f"{source} must have one category with keypoints, got {len(candidates)}: "
            f"{[category.get('name') for category in candidates]}"
        )
    return candidates[0]
