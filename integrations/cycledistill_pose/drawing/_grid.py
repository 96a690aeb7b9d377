"""Predictions beside the truth, for many people at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np

from cycledistill_pose.drawing._picture import ImageArray, as_image, to_numpy
from cycledistill_pose.drawing._skeleton import LEFT, RIGHT, draw_skeleton
from cycledistill_pose.skeletons import COCO, Skeleton

_PAPER = 250
_INK = (30, 30, 30)


def prediction_grid(
    images: Any,
    predictions: Any,
    truth: Any = None,
    *,
    visible: Any = None,
    scores: Any = None,
    skeleton: Skeleton = COCO,
    columns: int = 4,
    threshold: float = 0.2,
    captions: Sequence[str] | None = None,
    panel_height: int = 192,
) -> ImageArray:
    """Lay out people with their true and predicted skeletons side by side, labelled.

    >>> import numpy as np
    >>> from cycledistill_pose.drawing import prediction_grid
    >>> images = np.full((3, 64, 48, 3), 90, np.uint8)
    >>> keypoints = np.random.default_rng(0).uniform(4, 44, (3, 17, 2))
    >>> prediction_grid(
    ...     images,
    ...     {"1 cycle": keypoints, "2 cycles": keypoints},
    ...     keypoints,
    ...     columns=2,
    ...     panel_height=64,
    ... ).shape
    (190, 300, 3)

    Args:
        images: `[N, H, W, 3]` RGB, uint8; array, tensor or list.
        predictions: `[N, K, 2]` px of these images, or a dict from label to such.
        truth: `[N, K, 2]`; None leaves its panel out.
        visible: `[N, K]`, above 0 where the truth is labelled.
        scores: `[N, K]` of the predictions, or a dict like theirs.
        skeleton: Skeleton of all keypoints.
        columns: People in a row.
        threshold: Keypoints must score above this to be drawn.
        captions: One line for each person.
        panel_height: Px of each panel.

    Returns:
        The picture `[H, W, 3]`, uint8.

    Raises:
        ValueError: The numbers of people differ or are 0.
    """
    named = dict(predictions) if isinstance(predictions, Mapping) else {"prediction": predictions}
    panels: dict[str, tuple[Any, Any]] = {} if truth is None else {"truth": (truth, visible)}
    for label, keypoints in named.items():
        panels[label] = (keypoints, scores[label] if isinstance(scores, Mapping) else scores)
    count = len(images)
    wrong = {label: len(keypoints) for label, (keypoints, _) in panels.items()}
    if count == 0 or any(n != count for n in wrong.values()):
        raise ValueError(f"got {count} images, but keypoints for {wrong}")
    if captions is not None and len(captions) != count:
        raise ValueError(f"got {count} images and {len(captions)} captions")
    cells = []
    for index in range(count):
        image, factor = _resized(as_image(images[index]), panel_height)
        drawn = []
        for label, (keypoints, weights) in panels.items():
            level = 0.0 if label == "truth" else threshold
            points = to_numpy(keypoints[index]) * factor
            weight = None if weights is None else to_numpy(weights[index])
            picture = draw_skeleton(image, points, weight, skeleton, threshold=level)
            drawn.append(np.concatenate([_text(label, picture.shape[1]), picture], 0))
        cell = np.concatenate(drawn, 1)
        if captions is not None:
            cell = np.concatenate([cell, _text(captions[index], cell.shape[1])], 0)
        cells.append(np.pad(cell, ((3, 3), (3, 3), (0, 0)), constant_values=_PAPER))
    cells += [np.full_like(cells[0], _PAPER)] * (-count % min(columns, count))
    step = min(columns, count)
    rows = [np.concatenate(cells[i : i + step], 1) for i in range(0, len(cells), step)]
    return np.concatenate([*rows, _legend(rows[0].shape[1])], 0)


def _resized(image: ImageArray, height: int) -> tuple[ImageArray, float]:
    factor = height / image.shape[0]
    size = (max(1, round(image.shape[1] * factor)), height)
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_LINEAR), np.uint8), factor


def _text(text: str, width: int, height: int = 16) -> ImageArray:
    strip = np.full((height, width, 3), _PAPER, dtype=np.uint8)
    scale = 0.4
    while scale > 0.2 and cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)[0][0] > width:
        scale -= 0.03
    place = (2, height - 5)
    cv2.putText(strip, text, place, cv2.FONT_HERSHEY_SIMPLEX, scale, _INK, 1, cv2.LINE_AA)
    return strip


def _legend(width: int) -> ImageArray:
    strip = np.full((18, width, 3), _PAPER, dtype=np.uint8)
    for x, label, colour in ((4, "left", LEFT), (64, "right", RIGHT)):
        cv2.rectangle(strip, (x, 4), (x + 12, 13), colour, -1)
        place = (x + 16, 13)
        cv2.putText(strip, label, place, cv2.FONT_HERSHEY_SIMPLEX, 0.4, _INK, 1, cv2.LINE_AA)
    return strip
