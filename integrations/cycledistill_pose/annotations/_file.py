"""COCO-format keypoint files."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cycledistill_pose.annotations._category import Category, check_same_keypoints, read_category
from cycledistill_pose.annotations._images import ListedImage, check_distinct, read_images
from cycledistill_pose.annotations._people import AnnotatedPeople, read_people
from cycledistill_pose.annotations._values import as_integer, as_list, load_json
from cycledistill_pose.skeletons import Skeleton

# A path, the loaded contents, a pycocotools COCO, a KeypointFile, or a list of these.
Annotations = Any


@dataclass(frozen=True, eq=False)
class KeypointFile:
    """A COCO-format keypoint file, read and checked once: images, category and people.

    >>> from cycledistill_pose.data import KeypointFile
    >>> lamps = KeypointFile.read(
    ...     {
    ...         "images": [{"id": "7", "file_name": "a.jpg", "width": 80, "height": 60}],
    ...         "categories": [{"id": 1, "name": "lamp", "keypoints": ["foot", "bulb"]}],
    ...         "annotations": [
    ...             {"image_id": 7, "bbox": [20, 10, 20, 40], "keypoints": [30, 48, 2, 31, 14, 2]},
    ...             {"image_id": 7, "bbox": [50, 10, 20, 40], "keypoints": None, "iscrowd": None},
    ...         ],
    ...     }
    ... )
    >>> lamps.category.skeleton.keypoint_names, len(lamps.people)
    (('foot', 'bulb'), 2)
    >>> lamps.people.keypoints[0].tolist()
    [[30.0, 48.0, 2.0], [31.0, 14.0, 2.0]]

    `CocoKeypoints`, `CocoKeypointAP` and `CrowdPoseAP` take it in place of a path, so that a file
    is parsed once and means the same to all of them. Accepted are ``keypoints`` and ``iscrowd``
    that are null or missing, no ``category_id`` if there is only one category, ids and numbers as
    text, byte order marks, and missing ``id`` and ``num_keypoints``. Anything else that is not
    valid, such as NaN, is an error that names the file, the annotation, what was found and what
    was expected.

    Attributes:
        title: The path or paths, for messages.
        images: All images, with ``id``, ``file_name``, ``width``, ``height`` and ``crowd_index``.
        category: The category that was read: ``id``, ``name`` and ``skeleton``.
        people: All annotations of this category as arrays: ``image_ids`` and ``ids`` `[N]`,
            ``keypoints`` `[N, K, 3]`, ``boxes_xywh`` `[N, 4]`, ``areas``, ``crowd`` and
            ``num_labelled`` `[N]`.
        counts: How many annotations there are, and how many of other categories.
    """

    title: str
    images: tuple[ListedImage, ...]
    category: Category
    people: AnnotatedPeople
    counts: Mapping[str, int]

    @classmethod
    def read(
        cls,
        source: Annotations,
        category: str | None = None,
        skeleton: Skeleton | None = None,
        fallback: Skeleton | None = None,
    ) -> KeypointFile:
        """Read a file, or join several with the same keypoints.

        Args:
            source: A path, the loaded contents, a pycocotools ``COCO``, or a list of these. A
                `KeypointFile` is returned as it is.
            category: Name of the category, if several have keypoints.
            skeleton: Keypoints to use instead of the file's.
            fallback: Keypoints to use if the file does not name them, such as a file of test
                images.

        Raises:
            FileNotFoundError: There is no such file.
            TypeError: ``source`` is of another type.
            ValueError: The file is invalid.
        """
        if isinstance(source, KeypointFile):
            if category not in (None, source.category.name):
                raise ValueError(
                    f"{source.title} was read for category {source.category.name!r}, "
                    f"got category={category!r}"
                )
            file = source
        elif isinstance(source, Sequence) and not isinstance(source, str) and len(source):
            return _joined([cls.read(part, category, skeleton, fallback) for part in source])
        else:
            contents = getattr(source, "dataset", source)
            if not isinstance(contents, str | os.PathLike | Mapping):
                raise TypeError(
                    "annotations: expected the path of a COCO file, its contents as a dict, a "
                    "pycocotools COCO or a list of these, "
                    f"got {type(contents).__name__} {contents!r}"
                )
            content, title = load_json(contents, "annotations")
            file = _read(content, title, category, skeleton or fallback)
        return file if skeleton is None else file.with_skeleton(skeleton)

    @property
    def skeleton(self) -> Skeleton:
        """The keypoints.

        Raises:
            ValueError: Neither the file nor the caller has named them.
        """
        if self.category.skeleton is None:
            raise ValueError(
                f"{self.title}: category {self.category.name!r} (id {self.category.id}) has no "
                'keypoint names: its "keypoints" must list them, such as ["nose", "left_eye", '
                '"right_eye"]; or pass a Skeleton'
            )
        return self.category.skeleton

    @property
    def named(self) -> tuple[str, Skeleton]:
        """The file's name and its keypoints, for `check_same_keypoints`."""
        return self.title, self.category.own or self.skeleton

    @property
    def has_labels(self) -> bool:
        """Whether any person has a labelled keypoint that AP counts."""
        people = self.people
        listed = np.isin(people.image_ids, [image.id for image in self.images])
        counted = listed & ~people.crowd & (people.num_labelled > 0)
        return bool((people.keypoints[counted, :, 2] > 0).any())

    def with_skeleton(self, skeleton: Skeleton) -> KeypointFile:
        """The same people with another description of their keypoints.

        Raises:
            ValueError: It has another number of keypoints.
        """
        named = self.category.own
        own = named.num_keypoints if named else self.people.keypoints.shape[1]
        if (named or len(self.people)) and own not in (0, skeleton.num_keypoints):
            raise ValueError(
                f"skeleton {skeleton.name!r} has {skeleton.num_keypoints} keypoints, but category "
                f"{self.category.name!r} of {self.title} has {own}"
            )
        return replace(self, category=replace(self.category, skeleton=skeleton))


def _read(content: Any, title: str, name: str | None, fallback: Skeleton | None) -> KeypointFile:
    if not isinstance(content, Mapping) or content.get("images") is None:
        hint = "; a list is a file of detections or results" if isinstance(content, list) else ""
        raise ValueError(
            f'{title} is not in COCO format: it has no "images" (it holds a '
            f"{type(content).__name__}{hint})"
        )
    images = read_images(content, title)
    entries = as_list(content, "annotations", title)
    categories = as_list(content, "categories", title)
    category = read_category(categories, title, name, fallback)
    listed = {int(entry["id"]) for entry in categories}
    if not categories:
        own = {entry.get("category_id") for entry in entries} - {None}
        listed = {as_integer(number, f"{title}: category ids") for number in own}
        if len(listed) > 1:
            raise ValueError(
                f'{title} has no "categories", and its annotations are of several: '
                f"{sorted(listed)}; expected one"
            )
        category = replace(category, id=min(listed, default=1))
    people, others = read_people(entries, title, category, listed)
    counts = {"annotations": len(entries), "skipped: other category": others}
    return KeypointFile(title, images, category, people, counts)


def _joined(files: Sequence[KeypointFile]) -> KeypointFile:
    if len(files) == 1:
        return files[0]
    first = files[0]
    for other in files[1:]:
        check_same_keypoints(first.named, other.named)
    title = " + ".join(file.title for file in files)
    images = tuple(image for file in files for image in file.images)
    check_distinct(images, title)
    counts = sum((Counter(file.counts) for file in files), Counter())
    people = AnnotatedPeople.joined([file.people for file in files])
    return KeypointFile(title, images, first.category, people, counts)
