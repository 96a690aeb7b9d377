"""Counting what looks wrong in annotations, although it can be read."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import numpy.typing as npt

from cycledistill_pose.annotations._values import FloatArray


def count_strange(
    boxes_xywh: FloatArray, sizes: npt.NDArray[np.integer[Any]], points: FloatArray
) -> Counter[str]:
    """How many keypoints are outside of their box, and boxes not x, y, width, height in px.

    Boxes `[N, 4]` are as in the file, sizes `[N, 2]` of their images (0 where unknown), points
    `[N, K, 3]` x, y and above 0 where labelled.

    >>> box, size = np.array([[200.0, 300.0, 260.0, 380.0]]), np.array([[400, 600]])
    >>> count_strange(box, size, np.array([[[210.0, 310, 2], [250, 370, 2]]]))
    Counter({'boxes that look like xyxy, not xywh': 1})
    """
    start, sides = boxes_xywh[:, None, :2], boxes_xywh[:, None, 2:]
    places, labelled = points[..., :2], points[..., 2] > 0
    inside = ((places >= start - 1) & (places <= start + sides + 1)).all(-1)
    # Read as xyxy, a box holds all its keypoints; read as xywh it is twice as long and wide as they
    # spread, or leaves the image.
    inside_xyxy = ((places >= start - 1) & (places <= sides + 1)).all(-1) | ~labelled
    xyxy = inside_xyxy.all(1) & (boxes_xywh[:, 2:] > boxes_xywh[:, :2]).all(1)
    spread = np.stack([_spread(places[..., axis], labelled) for axis in (0, 1)], axis=1)
    length = boxes_xywh[:, 2:] - boxes_xywh[:, :2]
    tight = ((spread > length / 2) & (spread < boxes_xywh[:, 2:] / 2)).all(1)
    known = (sizes > 0).all(1, keepdims=True)
    beyond = (boxes_xywh[:, :2] + boxes_xywh[:, 2:] > 1.05 * sizes + 1) & known
    fits = ((boxes_xywh[:, 2:] <= sizes + 1) | ~known).all(1)
    xyxy &= tight | (beyond.any(1) & fits)
    parts = (boxes_xywh <= 1).all(1) & (boxes_xywh[:, 2:] > 0).all(1)
    return Counter(
        {
            name: int(count)
            for name, count in (
                ("keypoints outside of their box", (labelled & ~inside).sum()),
                ("boxes that look like xyxy, not xywh", (xyxy & ~parts).sum()),
                ("boxes that look like 0..1, not px", parts.sum()),
            )
            if count
        }
    )


def _spread(values: FloatArray, labelled: npt.NDArray[np.bool_]) -> FloatArray:
    """`[N]` from the least to the largest labelled value; below 0 where there is none."""
    least = np.where(labelled, values, np.inf).min(1, initial=np.inf)
    largest = np.where(labelled, values, -np.inf).max(1, initial=-np.inf)
    return np.where(np.isfinite(least), largest - least, -1.0)
