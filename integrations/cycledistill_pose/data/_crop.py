"""The affine map from an image to the model's input, its inverse, and the crop itself."""

from __future__ import annotations

import math
from typing import Any, TypeVar

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cycledistill_pose.annotations._values import FloatArray
from cycledistill_pose.data._picture import ImageArray

PADDING = 1.25  # of people's boxes, in training and in use
_T = TypeVar("_T", Tensor, FloatArray)


def crop_matrix(
    box_xyxy: Any,
    input_size: tuple[int, int],
    padding: float = PADDING,
    *,
    shift: npt.ArrayLike = (0.0, 0.0),
    scale: npt.ArrayLike = 1.0,
    rotation_degrees: npt.ArrayLike = 0.0,
    flip: npt.ArrayLike = False,
    udp: bool = False,
) -> Any:
    """Map px of the image to px of the model's input, for one box or for many.

    >>> from cycledistill_pose.data import crop_matrix, transform_points
    >>> matrix = crop_matrix([100.0, 50.0, 220.0, 210.0], (192, 256))
    >>> print(matrix)
    [[   1.28    0.   -108.8 ]
     [   0.      1.28  -38.4 ]]
    >>> print(transform_points(np.array([[160.0, 130.0]]), matrix))  # the centre of the box
    [[ 96. 128.]]

    The convention is that of the top-down pose toolboxes (Simple Baselines, HRNet, MMPose 0.x):
    the shorter side of the box grows about its centre until width / height is the input's, both
    sides grow by ``padding``, and the centre of the box lands on ``(w_in / 2, h_in / 2)`` with
    ``w_in / w_box`` input px per image px on both axes. Coordinates count pixel centres from 0
    and nothing is moved by half a pixel. With ``udp=True`` (Huang et al., CVPR 2020) the box
    spans pixel centres: it is scaled to ``(w_in - 1, h_in - 1)``, each axis by its own factor,
    and its centre lands on half of that.

    Args:
        box_xyxy: `[..., 4]` left, top, right, bottom in px of the image.
        input_size: (width, height) of the model's input.
        padding: Factor by which the box grows.
        shift: `[..., 2]` move of the box, in widths and heights of the padded box.
        scale: `[...]` factor on the padded box; above 1 the person becomes smaller.
        rotation_degrees: `[...]` turn of the box, clockwise as seen; its content turns
            counter-clockwise in the input.
        flip: `[...]` mirror left and right about the centre of the box (before the turn).
            Keypoints must be renamed too, with ``Skeleton.flip_indices``.
        udp: Scale to the centres of the outer pixels.

    Returns:
        `[..., 2, 3]`, of the type of ``box_xyxy`` (a tensor keeps its dtype and device).

    Raises:
        ValueError: A box is not 4 numbers, is empty or not finite, or a size is not above 0.
    """
    tensor = box_xyxy if isinstance(box_xyxy, Tensor) else None
    boxes = np.asarray(tensor.detach().cpu() if tensor is not None else box_xyxy, dtype=np.float64)
    width, height = (float(side) for side in input_size)
    if boxes.ndim == 0 or boxes.shape[-1] != 4:
        raise ValueError(f"box_xyxy: expected shape [..., 4], got {list(boxes.shape)}")
    if not (width > udp and height > udp and padding > 0):
        raise ValueError(
            f"input_size and padding: expected numbers above 0, got input_size={input_size}, "
            f"padding={padding}"
        )
    left, top, right, bottom = np.moveaxis(boxes, -1, 0)
    fine = np.isfinite(boxes).all(-1) & (left < right) & (top < bottom)
    if not fine.all():
        raise ValueError(
            "box_xyxy: expected finite numbers with left < right and top < bottom, "
            f"got {boxes.reshape(-1, 4)[~fine.reshape(-1)][0].tolist()}"
        )

    box_width = np.maximum(right - left, (bottom - top) * (width / height)) * padding
    box_height = box_width * (height / width)
    moved = np.asarray(shift, dtype=np.float64)
    centre_x = (left + right) / 2 + moved[..., 0] * box_width
    centre_y = (top + bottom) / 2 + moved[..., 1] * box_height
    target_width, target_height = (width - 1, height - 1) if udp else (width, height)
    factor = 1 / np.asarray(scale, dtype=np.float64)
    scale_x, scale_y = factor * target_width / box_width, factor * target_height / box_height
    angle = np.deg2rad(np.asarray(rotation_degrees, dtype=np.float64))
    cos, sin = np.cos(angle), np.sin(angle)
    mirror = 1.0 - 2.0 * np.asarray(flip, dtype=np.float64)

    a, b = mirror * cos * scale_x, sin * scale_x
    c, d = -mirror * sin * scale_y, cos * scale_y
    x = target_width / 2 - a * centre_x - b * centre_y
    y = target_height / 2 - c * centre_x - d * centre_y
    entries = np.broadcast_arrays(a, b, x, c, d, y)
    matrix = np.stack(entries, -1).reshape(*x.shape, 2, 3) + 0.0  # no negative zeros
    if tensor is None:
        return matrix
    dtype = tensor.dtype if tensor.is_floating_point() else torch.float32
    return torch.from_numpy(matrix).to(tensor.device, dtype)


def invert_matrix(matrix: _T) -> _T:
    """Turn image -> input matrices `[..., 2, 3]` into input -> image matrices, or back.

    >>> matrix = crop_matrix([0.0, 0.0, 96.0, 128.0], (192, 256), padding=1.0)
    >>> print(invert_matrix(matrix) + 0.0)
    [[0.5 0.  0. ]
     [0.  0.5 0. ]]
    """
    a, b, x = matrix[..., 0, 0], matrix[..., 0, 1], matrix[..., 0, 2]
    c, d, y = matrix[..., 1, 0], matrix[..., 1, 1], matrix[..., 1, 2]
    determinant = a * d - b * c
    entries = [d, -b, b * y - d * x, -c, a, c * x - a * y]
    stack = torch.stack if isinstance(matrix, Tensor) else np.stack
    return stack([entry / determinant for entry in entries], -1).reshape(matrix.shape)


def transform_points(points: _T, matrix: _T) -> _T:
    """Move points `[..., K, 2]` by matrices `[..., 2, 3]`; both arrays or both tensors.

    >>> matrix = crop_matrix([0.0, 0.0, 96.0, 128.0], (192, 256), padding=1.0)
    >>> print(transform_points(np.array([[10.0, 20.0]]), matrix))
    [[20. 40.]]

    Predictions go back to the image with
    ``transform_points(keypoints, invert_matrix(batch["crop_matrix"]))``.
    """
    turned = points @ matrix[..., :2].swapaxes(-1, -2)
    return turned + matrix[..., None, :, 2]


def crop_image(pixels: ImageArray, matrix: FloatArray, input_size: tuple[int, int]) -> ImageArray:
    """Cut a crop `[H, W, C]` out of an image, bilinear, black outside.

    OpenCV gets only the part of the image that the crop is interpolated from, so that a crop costs
    the same whatever the size of the image.
    """
    (a, b, x), (c, d, y) = matrix.tolist()
    determinant = a * d - b * c
    last_x, last_y = input_size[0] - 1, input_size[1] - 1
    corners = ((-x, -y), (last_x - x, -y), (-x, last_y - y), (last_x - x, last_y - y))
    across = [(d * u - b * v) / determinant for u, v in corners]
    along = [(a * v - c * u) / determinant for u, v in corners]
    # Bilinear sampling reads the pixel before and the one behind; one more for its rounding.
    left, top = (max(math.floor(min(edges)) - 1, 0) for edges in (across, along))
    right, bottom = (max(math.floor(max(edges)) + 3, 0) for edges in (across, along))
    window = pixels[top:bottom, left:right]
    if window.size == 0:
        return np.zeros((input_size[1], input_size[0], pixels.shape[2]), np.uint8)
    moved = np.array([[a, b, x + a * left + b * top], [c, d, y + c * left + d * top]])
    crop = cv2.warpAffine(window, moved, input_size, flags=cv2.INTER_LINEAR)
    return np.asarray(crop, dtype=np.uint8)
