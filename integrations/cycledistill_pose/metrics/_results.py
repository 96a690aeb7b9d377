"""Scored, distinct people in COCO's results format."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cycledistill_pose.metrics._oks import oks_nms, soft_oks_nms

NMS = Literal["oks", "soft_oks"]

# Sides of the box whose area scales similarity, relative to the person's box.
_BOX_PADDING = 1.25


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
    known = identities[:, 1:] >= 0
    numbers = np.where(known, 0, people.view(np.int64))
    ids = np.where(known, identities[:, 1:], -1)
    keys = np.concatenate([identities[:, :1], ids, numbers], axis=1)
    first = np.sort(np.unique(keys, axis=0, return_index=True)[1])
    return first[np.lexsort((identities[first, 1], identities[first, 0]))]


def coco_results(
    identities: NDArray[np.int64],
    people: NDArray[np.float64],
    *,
    sigmas: Sequence[float],
    category_id: int,
    nms: NMS | None,
    nms_threshold: float,
    keypoint_score_threshold: float,
    rescore: bool,
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
    (images, _), people = identities[chosen].T, people[chosen]
    points, keypoint_scores, boxes, scores = split_people(people, len(sigmas))
    if rescore:
        scores = instance_scores(scores, keypoint_scores, keypoint_score_threshold)
    areas = np.prod(_BOX_PADDING * (boxes[:, 2:] - boxes[:, :2]), axis=1)
    kept = np.split(np.arange(len(people)), np.flatnonzero(np.diff(images)) + 1)  # by image
    if nms is not None:
        suppress = oks_nms if nms == "oks" else soft_oks_nms
        kept = [i[suppress(points[i], scores[i], areas[i], nms_threshold, sigmas)] for i in kept]
    found = np.concatenate(kept)
    return result_rows(
        images[found].tolist(), category_id, points[found], keypoint_scores[found], scores[found]
    )


def result_rows(
    image_ids: Sequence[int | str],
    category_id: int,
    keypoints: NDArray[np.floating[Any]],
    keypoint_scores: NDArray[np.floating[Any]],
    scores: NDArray[np.floating[Any]],
) -> list[dict[str, Any]]:
    """Entries of COCO's results format: image ids, keypoints `[N, K, 2]`, `[N, K]` and `[N]`."""
    rows = np.concatenate((keypoints, keypoint_scores[..., None]), axis=-1)
    return [
        {
            "image_id": image,
            "category_id": category_id,
            "keypoints": row.reshape(-1).tolist(),
            "score": score,
        }
        for image, row, score in zip(image_ids, rows, scores.tolist(), strict=True)
    ]


def split_people(people: NDArray[np.float64], count: int) -> tuple[NDArray[np.float64], ...]:
    """Keypoints `[N, K, 2]`, their scores `[N, K]`, boxes `[N, 4]` and box scores `[N]`."""
    points, scores, boxes, box_scores = np.split(people, [2 * count, 3 * count, -1], axis=1)
    return points.reshape(len(people), count, 2), scores, boxes, box_scores[:, 0]


def shortened(items: Sequence[int], most: int = 10) -> str:
    """The items for a message, at most ten of them."""
    shown = ", ".join(map(str, items[:most]))
    return shown if len(items) <= most else f"{shown}, ... ({len(items)} in all)"
