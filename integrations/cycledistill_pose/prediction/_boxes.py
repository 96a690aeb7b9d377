"""Reading people's boxes for images from a file."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from cycledistill_pose.data._annotations import load_json


class ImageBoxes(NamedTuple):
    """An image's id, its N boxes `[N, 4]` (xyxy, px of the image) and their scores `[N]`.

    ``size`` is the image's (width, height) by the file; None where it does not say.
    """

    image_id: int | str
    boxes_xyxy: npt.NDArray[np.float64]
    scores: npt.NDArray[np.float64]
    size: tuple[int, int] | None = None


def number_images(names: Sequence[str]) -> list[int]:
    """Ids of images: the numbers that they are called by, as in COCO, or else 1, 2, ...

    >>> number_images(["000000000139.jpg", "000000000285.jpg"]), number_images(["a.png", "7.png"])
    ([139, 285], [1, 2])
    """
    stems = [Path(name).stem for name in names]
    if all(stem.isascii() and stem.isdigit() for stem in stems):
        numbers = [int(stem) for stem in stems]
        if len(set(numbers)) == len(numbers):
            return numbers
    return list(range(1, len(names) + 1))


def read_boxes(
    source: Any,
    names: Sequence[str],
    threshold: float = 0.0,
    category_id: int = 1,
    by_number: bool = False,
) -> dict[str, ImageBoxes]:
    """Boxes for images that are called ``names``, from a detector or from annotations.

    >>> found = read_boxes([{"image_id": 139, "bbox": [5, 5, 10, 20], "score": 0.9}], ["139.jpg"])
    >>> found["139.jpg"].image_id, found["139.jpg"].boxes_xyxy.tolist()
    (139, [[5.0, 5.0, 15.0, 25.0]])

    Args:
        source: JSON file, or its content: a detector's list of ``{image_id or file_name, bbox
            (xywh), score, category_id}`` (the last two may lack), or a COCO-format annotation
            file. An ``image_id`` alone belongs to the image that is called by this number.
        names: File names, without folders.
        threshold: Boxes of a lower score are left out.
        category_id: Boxes of another category and crowds are left out.
        by_number: Only an ``image_id`` says where a box belongs, as for the frames of a video;
            file names in the file are ignored.

    Returns:
        The boxes of every name; an image that the file does not speak of has none.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is broken, an entry is incomplete, a box is not 4 finite numbers of
            some extent, or all boxes are for other images.
    """
    content, title = load_json(source, "boxes")
    files: dict[Any, str] = {}
    sizes: dict[str, tuple[int, int]] = {}
    if isinstance(content, Mapping) and {"images", "annotations"} <= content.keys():
        files = {image["id"]: Path(image["file_name"]).name for image in content["images"]}
        sizes = {
            Path(image["file_name"]).name: (int(image["width"]), int(image["height"]))
            for image in content["images"]
            if image.get("width") and image.get("height")
        }
        files = {} if by_number else files
        entries = content["annotations"]
    else:
        entries = content
    if not isinstance(entries, list) or not all(isinstance(entry, Mapping) for entry in entries):
        raise ValueError(
            f"{title} must be a list of {{image_id or file_name, bbox, score}}, or COCO-format "
            "annotations with images and annotations"
        )
    ids: dict[str, int | str] = dict(zip(names, number_images(names), strict=True))
    numbered: dict[Any, str] = {}
    if all(Path(name).stem.isdigit() for name in names):
        numbered = {number: name for name, number in ids.items()}
    ids |= {name: number for number, name in files.items() if name in ids}
    rows: dict[str, list[tuple[list[float], float]]] = {name: [] for name in names}
    others: list[Any] = []
    for number, entry in enumerate(entries):
        if "bbox" not in entry or not ("image_id" in entry or "file_name" in entry):
            raise ValueError(f"{title}: entry {number} lacks bbox, or both image_id and file_name")
        if entry.get("category_id", category_id) != category_id or entry.get("iscrowd", 0):
            continue
        image_id = entry.get("image_id")
        named = None if by_number else entry.get("file_name")
        name = named or (files or numbered).get(image_id)
        name = None if name is None else Path(name).name
        if name not in rows:
            others.append(entry.get("file_name", image_id))
            continue
        if image_id is not None:
            ids[name] = image_id
        score = float(entry.get("score", 1.0))
        if score >= threshold:
            rows[name].append((_xyxy(entry["bbox"], f"{title}: entry {number}"), score))
    if others and not any(rows.values()):
        raise ValueError(
            f"{title} is for other images: its {len(others)} boxes are for {others[0]!r} and the "
            f"like, none for {names[0]!r}{' and the like' if len(names) > 1 else ''}"
        )
    return {
        name: ImageBoxes(
            ids[name],
            np.array([box for box, _ in found], dtype=np.float64).reshape(-1, 4),
            np.array([score for _, score in found], dtype=np.float64),
            None if by_number else sizes.get(name),
        )
        for name, found in rows.items()
    }


def _xyxy(bbox: Any, title: str) -> list[float]:
    try:
        x, y, width, height = (float(value) for value in bbox)
    except (TypeError, ValueError):
        raise ValueError(f"{title}: bbox must be 4 numbers (x, y, width, height): {bbox}") from None
    if not (all(map(math.isfinite, (x, y, width, height))) and width > 0 and height > 0):
        raise ValueError(f"{title}: bbox has no extent or is not finite: {bbox}")
    return [x, y, x + width, y + height]
