"""Scored, distinct people in COCO's results format."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cycledistill.saving._files import replacing
from cycledistill_pose.metrics._oks import oks_nms, soft_oks_nms

NMS = Literal["oks", "soft_oks"]

# Sides of the box that a pose is similar within, by sides of the person's box.
_BOX_PADDING = 1.25


@dataclass(frozen=True)
class Scoring:
    """How people are scored, and duplicates removed, before evaluation."""

    nms: NMS | None
    nms_threshold: float
    keypoint_score_threshold: float
    rescore: bool
    sigmas: tuple[float, ...]
    category_id: int


def instance_scores(
    box_scores: NDArray[np.float64], keypoint_scores: NDArray[np.float64], threshold: float
) -> NDArray[np.float64]:
    """Box score times the mean of the keypoint scores above the threshold, 0 where none is.

    >>> instance_scores(np.array([0.5, 0.5]), np.array([[0.8, 0.6, 0.1], [0.1, 0.1, 0.2]]), 0.2)
    array([0.35, 0.  ])
    """
    counted = keypoint_scores > threshold
    total = np.where(counted, keypoint_scores, 0.0).sum(axis=1)
    return box_scores * total / np.maximum(counted.sum(axis=1), 1)


def distinct_people(identities: NDArray[np.int64], people: NDArray[np.float64]) -> NDArray[np.intp]:
    """Indices of people without repetition, by image and within an image by id.

    ``identities`` `[N, 2]` are image id and person's id, ``people`` `[N, D]` everything else.

    A person that was added twice, for example by the padding of a distributed sampler, counts
    once: the same image and id, or if the id is unknown (-1), the same numbers in the same image.
    """
    first: dict[tuple[int, int | bytes], int] = {}
    for index, (image, person) in enumerate(identities.tolist()):
        key = (image, person if person >= 0 else people[index].tobytes())
        first.setdefault(key, index)
    kept = np.fromiter(first.values(), dtype=np.intp, count=len(first))
    order = np.lexsort((identities[kept, 1], identities[kept, 0]))
    return kept[order]


def coco_results(
    identities: NDArray[np.int64], people: NDArray[np.float64], scoring: Scoring
) -> list[dict[str, Any]]:
    """Distinct people, scored, without duplicates within an image, in COCO's results format.

    ``people`` `[N, 3 K + 5]` are x and y of K keypoints, their K scores, box xyxy and box score.
    """
    finite = np.isfinite(people).all(axis=1)
    if not finite.all():
        images = sorted({int(image) for image in identities[~finite, 0]})
        raise ValueError(
            f"keypoints, scores or boxes of {int((~finite).sum())} people are not finite, "
            f"in the images {shortened(images)}"
        )
    chosen = distinct_people(identities, people)
    identities, people = identities[chosen], people[chosen]
    count = len(scoring.sigmas)
    keypoints = people[:, : 2 * count].reshape(-1, count, 2)
    keypoint_scores = people[:, 2 * count : 3 * count]
    boxes, scores = people[:, -5:-1], people[:, -1]
    if scoring.rescore:
        scores = instance_scores(scores, keypoint_scores, scoring.keypoint_score_threshold)
    areas = np.prod(_BOX_PADDING * (boxes[:, 2:] - boxes[:, :2]), axis=1)
    rows = np.concatenate((keypoints, keypoint_scores[..., None]), axis=-1).reshape(-1, 3 * count)

    results = []
    for _, group in itertools.groupby(range(len(people)), key=lambda i: identities[i, 0]):
        members = np.fromiter(group, dtype=np.intp)
        if scoring.nms is not None:
            suppress = oks_nms if scoring.nms == "oks" else soft_oks_nms
            kept = suppress(
                keypoints[members],
                scores[members],
                areas[members],
                scoring.nms_threshold,
                scoring.sigmas,
            )
            members = members[kept]
        results += [
            {
                "image_id": int(identities[i, 0]),
                "category_id": scoring.category_id,
                "keypoints": rows[i].tolist(),
                "score": float(scores[i]),
            }
            for i in members
        ]
    return results


def write_json(path: str | Path, contents: object) -> None:
    """Write a JSON file whole or not at all."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with replacing(Path(path)) as file:
        json.dump(contents, file)


def shortened(items: Sequence[int], most: int = 10) -> str:
    """At most the first ten of them, for a message."""
    shown = ", ".join(map(str, items[:most]))
    return shown if len(items) <= most else f"{shown}, ... ({len(items)} in all)"
