"""Boxes from a detector's list or from the annotations of a COCO-format file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from cycledistill_pose.annotations._images import ListedImage, read_images
from cycledistill_pose.annotations._values import (
    FloatArray,
    as_box,
    as_integer,
    as_list,
    as_number,
    load_json,
)


class Box(NamedTuple):
    """One box; None where the file does not say.

    Attributes:
        image_id: An integer, or text that is not one.
        file_name: Path of the image.
        category_id: Id of its category.
        xywh: `[4]` px of the image.
        score: Score of the detector.
        crowd: Whether it is a group of people.
    """

    image_id: int | str | None
    file_name: str | None
    category_id: int | None
    xywh: FloatArray
    score: float
    crowd: bool

    @property
    def has_extent(self) -> bool:
        """Whether it is finite, with sides above 0."""
        return bool(np.isfinite(self.xywh).all() and (self.xywh[2:] > 0).all())


def to_xyxy(boxes: Sequence[Box]) -> npt.NDArray[np.float64]:
    """Corners `[N, 4]` of boxes, px of the image."""
    xywh = np.array([box.xywh for box in boxes], dtype=np.float64).reshape(-1, 4)
    return np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)


@dataclass(frozen=True)
class BoxFile:
    """Boxes for images.

    Attributes:
        title: The path, for messages.
        boxes: All boxes.
        images: Its images by id, where the file lists them.
        category_names: Name of each category id, where the file lists its categories.
    """

    title: str
    boxes: tuple[Box, ...]
    images: Mapping[int | str | None, ListedImage]
    category_names: Mapping[int, str]

    def path_of(self, box: Box) -> str | None:
        """The path of a box's image: its own, or the one listed for its id."""
        listed = self.images.get(box.image_id)
        return box.file_name or (listed.file_name if listed else None)

    @classmethod
    def read(cls, source: Any, what: str, default_score: float | None = None) -> BoxFile:
        """Read boxes.

        Args:
            source: A path or its contents: a list of ``{image_id or file_name, bbox (xywh), score,
                category_id}``, or a COCO-format file with images and annotations.
            what: The option's name, for messages.
            default_score: Score of boxes without one. None: all must have one.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: It is not such a file; names the entry.
        """
        if isinstance(source, BoxFile):
            return source
        content, title = load_json(source, what)
        images: tuple[ListedImage, ...] = ()
        categories: dict[int, str] = {}
        entries = content
        from_people = isinstance(content, Mapping) and {"images", "annotations"} <= content.keys()
        if from_people:
            entries = as_list(content, "annotations", title)
            images = read_images(content, title, _image_id)
            categories = {
                as_integer(entry.get("id"), f"{title}: category ids"): str(entry.get("name"))
                for entry in as_list(content, "categories", title)
            }
        if not isinstance(entries, Sequence) or not all(isinstance(e, Mapping) for e in entries):
            raise ValueError(
                f"{title}: expected a list of objects with image_id (or file_name), bbox and "
                f"score, or a COCO-format file with images and annotations, got a "
                f"{type(entries).__name__}"
            )
        boxes = tuple(
            _box(entry, f"{title}: entry {number}", default_score, from_people)
            for number, entry in enumerate(entries)
        )
        return cls(title, boxes, {image.id: image for image in images}, categories)


def _box(
    entry: Mapping[str, Any], name: str, default_score: float | None, from_people: bool
) -> Box:
    needed = [] if from_people else ["bbox"]
    needed += ["score"] if default_score is None else []
    lacking = [key for key in needed if entry.get(key) is None or np.size(entry[key]) == 0]
    if entry.get("image_id") is None and entry.get("file_name") is None:
        lacking.insert(0, "image_id or file_name")
    if lacking:
        raise ValueError(f"{name} has no {', '.join(lacking)}")
    image_id, file_name, category, score = (
        entry.get(key) for key in ("image_id", "file_name", "category_id", "score")
    )
    crowd = entry.get("iscrowd")
    return Box(
        None if image_id is None else _image_id(image_id, name),
        None if file_name is None else str(file_name),
        None if category is None else as_integer(category, f"{name}: category ids"),
        as_box(entry.get("bbox"), f"{name}: its bbox", finite=False),
        as_number(default_score if score is None else score, f"{name}: its score"),
        crowd is not None and crowd not in (0, "0", False),
    )


def _image_id(value: Any, what: str) -> int | str:
    """The id as an integer, or as text if it is not one."""
    try:
        return as_integer(value, what)
    except ValueError:
        return str(value)
