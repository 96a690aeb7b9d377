"""Boxes of people from a file, for given images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from cycledistill_pose.annotations import Box, BoxFile
from cycledistill_pose.annotations._boxes import to_xyxy
from cycledistill_pose.prediction._match import FrameMatcher, ImageMatcher, number_images
from cycledistill_pose.skeletons import COCO, Skeleton


class ImageBoxes(NamedTuple):
    """An image's id, its N boxes `[N, 4]` (xyxy, px of the image) and their scores `[N]`.

    ``size`` is the image's (width, height) by the file; None where it does not say.
    """

    image_id: int | str
    boxes_xyxy: npt.NDArray[np.float64]
    scores: npt.NDArray[np.float64]
    size: tuple[int, int] | None = None


@dataclass(frozen=True)
class FoundBoxes:
    """Boxes of each image, by its name.

    Attributes:
        images: One entry for each image.
        total: Boxes in the file.
        left_out: Number of boxes left out, by reason.
        first_frame: Number of a video's first frame in the file.
        strange: Number of boxes that are not x, y, width, height in px, by what they look like.
    """

    images: dict[str, ImageBoxes]
    total: int
    left_out: Counter[str]
    first_frame: int | None = None
    strange: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        """How many were used and left out, and why."""
        text = f"{self.total:,}, all used"
        if self.left_out:
            reasons = ", ".join(f"{count:,} {reason}" for reason, count in self.left_out.items())
            used = self.total - self.left_out.total()
            text = f"{self.total:,}, {used:,} used; left out: {reasons}"
        counted = "" if self.first_frame is None else f"; frames count from {self.first_frame}"
        return text + counted + "".join(f"; {n:,} {what}" for what, n in self.strange.items())


def read_boxes(
    source: Any,
    names: Sequence[str],
    folder: Path,
    threshold: float = 0.0,
    skeleton: Skeleton = COCO,
    category_id: int | None = None,
    video: bool = False,
    first_frame: int | None = None,
) -> FoundBoxes:
    """Boxes for images that are called ``names``, from a detector or from annotations.

    >>> boxes = [{"file_name": "139.jpg", "bbox": [5, 5, 10, 20], "score": 0.9}]
    >>> found = read_boxes(boxes, ["139.jpg", "a/139.jpg"], Path("photos"))
    >>> found.images["139.jpg"].boxes_xyxy.tolist(), str(found)
    ([[5.0, 5.0, 15.0, 25.0]], '1, all used')

    A box belongs to the image whose path ends in its ``file_name``, or in the one that the file
    lists for its ``image_id``; without either, to the image whose name is that number.

    Args:
        source: JSON file, or its content: a detector's list of ``{image_id or file_name, bbox
            (xywh), score, category_id}`` (the last two are optional), or a COCO-format annotation
            file.
        names: Paths of the images, relative to ``folder``.
        folder: Folder of the images.
        threshold: Boxes of a lower score are left out.
        skeleton: The network's; boxes of other categories and of crowds are left out. Categories
            are compared by name if the file names them, otherwise by id.
        category_id: Take the boxes of this category instead.
        video: The names are frames: boxes belong to them by number.
        first_frame: Number of the first frame; None takes it from the file.
    """
    file = BoxFile.read(source, "boxes", default_score=1.0)
    categories = {None, *_categories(file, skeleton, category_id)}
    matcher = FrameMatcher(names, file, first_frame) if video else ImageMatcher(names, folder, file)
    ids: dict[str, int | str] = dict(zip(names, number_images(names), strict=True))
    kept: dict[str, list[Box]] = {name: [] for name in names}
    others: list[Box] = []
    left_out: Counter[str] = Counter()
    for box in file.boxes:
        name = matcher.find(box)
        if name is not None and box.image_id is not None:
            ids[name] = box.image_id
        if box.category_id not in categories:
            left_out["of another category"] += 1
        elif box.crowd:
            left_out["of a crowd"] += 1
        elif name is None:
            left_out[f"for other {'frames' if video else 'images'}"] += 1
            others.append(box)
        elif box.score < threshold:
            left_out[f"of a score below {threshold:g}"] += 1
        elif not box.has_extent:
            left_out["without extent or not finite"] += 1
        else:
            kept[name].append(box)
    images = {}
    for name, own in kept.items():
        listed = None if video else file.images.get(ids[name])
        scores = np.array([box.score for box in own], dtype=np.float64)
        size = listed.size if listed else None
        images[name] = ImageBoxes(ids[name], to_xyxy(own), scores, size)
    first = matcher.first if isinstance(matcher, FrameMatcher) else None
    found = FoundBoxes(images, len(file.boxes), left_out, first)
    if left_out and not any(kept.values()) and not any("score" in why for why in left_out):
        _refuse(found, file, names, others, skeleton if category_id is None else None)
    return found


def _categories(file: BoxFile, skeleton: Skeleton, category_id: int | None) -> set[int]:
    """Ids of the categories whose boxes are used."""
    if category_id is not None:
        return {category_id}
    if skeleton.category is None or not file.category_names:
        return {skeleton.category_id}
    wanted = skeleton.category.casefold()
    return {number for number, name in file.category_names.items() if name.casefold() == wanted}


def _refuse(
    found: FoundBoxes,
    file: BoxFile,
    names: Sequence[str],
    others: Sequence[Box],
    skeleton: Skeleton | None,
) -> None:
    if len(others) == found.total:
        box = others[0]
        name = file.path_of(box) or box.image_id
        raise ValueError(
            f"{file.title} is for other images: its {found.total} boxes are for images such as "
            f"{name!r}, none for {names[0]!r}"
        )
    reason = ""
    if skeleton is not None and found.left_out["of another category"]:
        own = sorted({b.category_id for b in file.boxes if b.category_id is not None})
        named = [f"{number} {file.category_names.get(number, '')}".strip() for number in own]
        reason = (
            f"; the file's categories are {', '.join(named)}, the network's is "
            f"{skeleton.category_id} {skeleton.category or ''}".rstrip()
            + ": --category-id takes the boxes of another one"
        )
    raise ValueError(f"{file.title}: no boxes are left of {found}{reason}")
