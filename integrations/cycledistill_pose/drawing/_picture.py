"""Writing pictures."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from cycledistill.saving._files import replacing_file
from cycledistill_pose._checks import check_shape

ImageArray = npt.NDArray[np.uint8]


def to_numpy(values: Any) -> npt.NDArray[Any]:
    """An array of a tensor on any device, an array or a list."""
    return np.asarray(values.detach().cpu() if hasattr(values, "detach") else values)


def as_image(image: Any) -> ImageArray:
    """An RGB image `[H, W, 3]` of bytes from an array or tensor."""
    array = to_numpy(image)
    if array.dtype != np.uint8:
        raise TypeError(f"image: expected uint8 (0 to 255), got {array.dtype}")
    check_shape("image", array, "H W 3")
    return array


def encode_picture(image: Any, suffix: str = ".jpg", quality: int = 90) -> bytes:
    """A JPEG or PNG file of an RGB image `[H, W, 3]`."""
    bgr = cv2.cvtColor(as_image(image), cv2.COLOR_RGB2BGR)
    options = [] if suffix == ".png" else [cv2.IMWRITE_JPEG_QUALITY, quality]
    fine, data = cv2.imencode(suffix, bgr, options)
    assert fine
    return data.tobytes()


def save_picture(path: str | os.PathLike[str], image: Any, quality: int = 90) -> Path:
    """Write an RGB image `[H, W, 3]` (uint8) as JPEG or PNG, whole or not at all.

    >>> import tempfile, numpy as np
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = save_picture(folder + "/new/grey.png", np.full((4, 6, 3), 128, np.uint8))
    ...     path.name, path.stat().st_size > 0
    ('grey.png', True)

    Args:
        path: Ending in .jpg, .jpeg or .png; folders are made.
        image: Array or tensor.
        quality: Quality of a JPEG, 0 to 100.

    Raises:
        ValueError: The ending is another.
    """
    path = Path(path)
    if path.suffix.lower() not in (".jpg", ".jpeg", ".png"):
        raise ValueError(f"path: expected one that ends in .jpg, .jpeg or .png, got {path}")
    data = encode_picture(image, path.suffix.lower(), quality)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing_file(path) as temporary:
        temporary.write_bytes(data)
    return path
