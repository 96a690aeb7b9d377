"""Annotated people as arrays."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from cycledistill_pose.annotations._category import Category
from cycledistill_pose.annotations._values import (
    FloatArray,
    as_box,
    as_integer,
    as_number,
    as_numbers,
)

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class AnnotatedPeople:
    """All N annotations of a category, including crowds and people without keypoints.

    Attributes:
        image_ids: `[N]`.
        ids: `[N]` as in the file; -1 where it has none, or the same one twice in an image.
        keypoints: `[N, K, 3]` x and y in px of the image, and above 0 where labelled. All 0 for
            people without keypoints.
        boxes_xywh: `[N, 4]` px of the image; NaN where there is no box.
        areas: `[N]` px^2; NaN where the file does not say.
        crowd: `[N]` a group of people under one annotation.
        num_labelled: `[N]` the file's ``num_keypoints``, counted where it does not say.
    """

    image_ids: IntArray
    ids: IntArray
    keypoints: FloatArray
    boxes_xywh: FloatArray
    areas: FloatArray
    crowd: BoolArray
    num_labelled: IntArray

    def __len__(self) -> int:
        return len(self.image_ids)

    @classmethod
    def joined(cls, parts: Sequence[AnnotatedPeople]) -> AnnotatedPeople:
        """The people of several files, one file after the other."""
        people = {f.name: np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(cls)}
        return cls(**people | {"ids": _distinct(people["image_ids"], people["ids"])})


def read_people(
    entries: Sequence[Mapping[str, Any]], title: str, category: Category, listed: Collection[int]
) -> tuple[AnnotatedPeople, int]:
    """The annotations of a category, and how many are of another one.

    ``listed`` are the ids of the file's categories; if there is one, annotations may omit it.
    """
    count = 0 if category.skeleton is None else category.skeleton.num_keypoints
    rows: list[tuple[Any, ...]] = []
    others: list[int] = []
    for number, entry in enumerate(entries, start=1):
        name = f"{title}: annotation {entry.get('id', f'number {number}')}"
        own, image = entry.get("category_id"), entry.get("image_id")
        if own is None and len(listed) > 1:
            raise ValueError(f"{name} has no category_id, expected one of {sorted(listed)}")
        if own is not None and as_integer(own, f"{name}: category ids") != category.id:
            others.append(int(own))
            continue
        if image is None:
            raise ValueError(f"{name} has no image_id")
        points = _keypoints(entry.get("keypoints"), name, category, count)
        count = len(points) or count
        number_of, own_id, area, crowd = map(entry.get, ("num_keypoints", "id", "area", "iscrowd"))
        crowd = int(crowd or 0) if isinstance(crowd, bool | None) else crowd
        counted = number_of is None or not len(points)
        labelled = (points[:, 2] > 0).sum() if counted else number_of
        rows.append(
            (
                as_integer(image, f"{name}: image ids"),
                -1 if own_id is None else as_integer(own_id, f"{name}: annotation ids"),
                points,
                as_box(entry.get("bbox"), f"{name}: its bbox"),
                np.nan if area is None else as_number(area, f"{name}: its area"),
                as_integer(crowd, f"{name}: iscrowd") != 0,
                as_integer(labelled, f"{name}: num_keypoints"),
            )
        )
    if others and not rows and set(others).isdisjoint(listed):
        raise ValueError(
            f"{title}: no annotation is of category {category.name!r} (id {category.id}): their "
            f"category_id is {sorted(set(others))}, expected one of {sorted(listed)}"
        )
    images, ids, keypoints, boxes, areas, crowds, counts = (
        zip(*rows, strict=True) if rows else [()] * 7
    )
    nobody = np.zeros((count, 3))
    all_points = [points if len(points) else nobody for points in keypoints]
    image_ids = np.array(images, np.int64)
    people = AnnotatedPeople(
        image_ids,
        _distinct(image_ids, np.array(ids, np.int64)),
        np.array(all_points, np.float64).reshape(len(rows), count, 3),
        np.array(boxes, np.float64).reshape(len(rows), 4),
        np.array(areas, np.float64),
        np.array(crowds, bool),
        np.array(counts, np.int64),
    )
    return people, len(others)


def _keypoints(values: Any, name: str, category: Category, count: int) -> FloatArray:
    """`[K, 3]`, or `[0, 3]` where the annotation has no keypoints."""
    if values is None or (isinstance(values, Sequence) and len(values) == 0):
        return np.zeros((0, 3))
    points = as_numbers(values, f"{name}: its keypoints", finite=False)
    expected = 3 * count or len(points)
    if len(points) != expected or expected % 3:
        keypoints = f"{count or 'K'} keypoints of {category.name!r}"
        needed = expected if count else "3 K"
        raise ValueError(
            f"{name} has {len(points)} keypoint numbers, but {keypoints} need {needed}"
        )
    points = points.reshape(-1, 3)
    if not np.isfinite(points).all():
        wrong = np.flatnonzero(~np.isfinite(points).all(1))
        names = () if category.skeleton is None else category.skeleton.keypoint_names
        which = repr(names[wrong[0]]) if names else str(wrong[0] + 1)
        raise ValueError(
            f"{name}: keypoint {which}: expected finite numbers x, y and v, "
            f"got {points[wrong[0]].tolist()}"
        )
    return points


def _distinct(image_ids: IntArray, ids: IntArray) -> IntArray:
    """The ids, but -1 where an image has the same one twice."""
    pairs = np.stack([image_ids, ids], axis=1)
    _, place, times = np.unique(pairs, axis=0, return_inverse=True, return_counts=True)
    return np.where(times[place.reshape(-1)] > 1, -1, ids)
