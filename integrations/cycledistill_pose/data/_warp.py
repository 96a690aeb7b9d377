"""Cutting the model's input out of an image, or out of a stored part of it."""

from __future__ import annotations

import math
from typing import NamedTuple

import cv2
import numpy as np

from cycledistill_pose.data._people import FloatArray
from cycledistill_pose.data._picture import ImageArray


class Rectangle(NamedTuple):
    """Whole pixels of an image: from (left, top) up to, not including, (right, bottom)."""

    left: int
    top: int
    right: int
    bottom: int

    def clip(self, width: int, height: int) -> Rectangle:
        """What of it is inside of an image; of no extent where nothing is."""
        left, top = min(max(self.left, 0), width), min(max(self.top, 0), height)
        right, bottom = max(min(self.right, width), left), max(min(self.bottom, height), top)
        return Rectangle(left, top, right, bottom)

    def contains(self, other: Rectangle) -> bool:
        """Whether all of the other's pixels are in it, too."""
        if other.right <= other.left or other.bottom <= other.top:
            return True
        return (
            self.left <= other.left
            and self.top <= other.top
            and self.right >= other.right
            and self.bottom >= other.bottom
        )


def source_of(matrix: FloatArray, input_size: tuple[int, int]) -> Rectangle:
    """The pixels that a crop is interpolated from; beyond the image, too.

    Args:
        matrix: `[2, 3]`, px of the image -> px of the input.
        input_size: (width, height) of the input.
    """
    (a, b, x), (c, d, y) = matrix.tolist()
    determinant = a * d - b * c
    right, down = input_size[0] - 1, input_size[1] - 1
    corners = ((-x, -y), (right - x, -y), (-x, down - y), (right - x, down - y))
    across = [(d * u - b * v) / determinant for u, v in corners]
    along = [(a * v - c * u) / determinant for u, v in corners]
    # Bilinear sampling reads the pixel before and the one behind; one more for its rounding.
    return Rectangle(
        math.floor(min(across)) - 1,
        math.floor(min(along)) - 1,
        math.floor(max(across)) + 3,
        math.floor(max(along)) + 3,
    )


def crop_image(pixels: ImageArray, matrix: FloatArray, input_size: tuple[int, int]) -> ImageArray:
    """Cut a crop `[H, W, C]` out of a whole image; see `warp`."""
    height, width = pixels.shape[:2]
    return warp(pixels, matrix, input_size, source_of(matrix, input_size).clip(width, height))


def warp(
    pixels: ImageArray,
    matrix: FloatArray,
    input_size: tuple[int, int],
    source: Rectangle,
    origin: tuple[int, int] = (0, 0),
) -> ImageArray:
    """Cut a crop `[H, W, C]` out of an image, once, bilinear, black outside.

    The crop is made from ``source`` alone and its position counted from there. So the result is
    the same bit for bit whether ``pixels`` are the whole image or any part with ``source`` in it.

    Args:
        pixels: `[h, w, C]`.
        matrix: `[2, 3]`, px of the image -> px of the input.
        input_size: (width, height) of the input.
        source: what `source_of` returns, clipped to the image.
        origin: where in the image ``pixels`` begin.
    """
    left, top, right, bottom = source
    if right <= left or bottom <= top:
        return np.zeros((input_size[1], input_size[0], pixels.shape[2]), np.uint8)
    window = pixels[top - origin[1] : bottom - origin[1], left - origin[0] : right - origin[0]]
    (a, b, x), (c, d, y) = matrix.tolist()
    moved = np.array([[a, b, x + a * left + b * top], [c, d, y + c * left + d * top]])
    crop = cv2.warpAffine(window, moved, input_size, flags=cv2.INTER_LINEAR)
    return np.asarray(crop, dtype=np.uint8)
