"""Drawing one person's keypoints and limbs."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from cycledistill_pose._checks import check_shape
from cycledistill_pose.drawing._picture import ImageArray, as_image, to_numpy
from cycledistill_pose.skeletons import COCO, Skeleton
from cycledistill_pose.skeletons._sides import find_flip_pairs

# From the palette of Okabe and Ito, which is safe for colour blindness.
LEFT = (230, 159, 0)
RIGHT = (86, 180, 233)
MIDDLE = (240, 240, 240)
_OUTLINE = (20, 20, 20)
_SHIFT = 4  # sub-pixel bits of OpenCV's drawing


def draw_skeleton(
    image: Any,
    keypoints: Any,
    scores: Any = None,
    skeleton: Skeleton = COCO,
    *,
    threshold: float = 0.2,
    thickness: int | None = None,
) -> ImageArray:
    """Draw a person over a copy of an image: left orange, right blue, the rest white.

    >>> import numpy as np
    >>> from cycledistill_pose.drawing import draw_skeleton
    >>> image = np.zeros((64, 48, 3), np.uint8)
    >>> keypoints = np.linspace(8, 40, 34).reshape(17, 2)
    >>> picture = draw_skeleton(image, keypoints)
    >>> picture.shape, bool(picture.any()), bool(image.any())
    ((64, 48, 3), True, False)

    Args:
        image: RGB `[H, W, 3]`, uint8; array or tensor.
        keypoints: `[K, 2]` px of the image.
        scores: `[K]`; None draws all keypoints.
        skeleton: Names, sides and limbs.
        threshold: Keypoints must score above this to be drawn.
        thickness: Thickness of the limbs in px; by default it grows with the image.

    Raises:
        ValueError: The number of keypoints is not the skeleton's.
    """
    canvas = as_image(image).copy()
    points = to_numpy(keypoints)
    check_shape("keypoints", points, "K 2", K=skeleton.num_keypoints)
    shown = np.isfinite(points).all(1)
    if scores is not None:
        shown &= to_numpy(scores).reshape(-1) > threshold
    thick = thickness or max(1, round(max(canvas.shape[:2]) / 130))
    limbs = [(a, b) for a, b in skeleton.limbs if shown[a] and shown[b]]
    spots = {i: _fixed(points[i]) for i in np.flatnonzero(shown).tolist()}
    for colour_of, extra in ((lambda *_: _OUTLINE, 2), (_colour, 0)):
        for a, b in limbs:
            colour = colour_of(skeleton, a, b)
            cv2.line(canvas, spots[a], spots[b], colour, thick + extra, cv2.LINE_AA, _SHIFT)
        for index, spot in spots.items():
            colour = colour_of(skeleton, index, index)
            radius = round((1.1 * thick + extra / 2) * 2**_SHIFT)
            cv2.circle(canvas, spot, radius, colour, -1, cv2.LINE_AA, _SHIFT)
    return canvas


def _fixed(point: Any) -> tuple[int, int]:
    x, y = (float(v) for v in np.clip(point, -1e5, 1e5))
    return round(x * 2**_SHIFT), round(y * 2**_SHIFT)


def _colour(skeleton: Skeleton, first: int, second: int) -> tuple[int, int, int]:
    sides = {_side(skeleton, first), _side(skeleton, second)} - {MIDDLE}
    return sides.pop() if len(sides) == 1 else MIDDLE


def _side(skeleton: Skeleton, index: int) -> tuple[int, int, int]:
    for left, right in skeleton.flip_pairs:
        if index in (left, right):
            first, second = skeleton.keypoint_names[left], skeleton.keypoint_names[right]
            swapped = "right" in first.lower() or find_flip_pairs((first, second)) == ((1, 0),)
            return LEFT if (index == left) != swapped else RIGHT
    return MIDDLE
