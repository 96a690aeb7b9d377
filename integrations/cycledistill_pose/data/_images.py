"""Reading images, from a folder or from memory, and knowing a broken one."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

ImageArray = npt.NDArray[np.uint8]
ImageSource = str | os.PathLike[str] | Mapping[str, Any]

_REDUCED = {
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}


def is_truncated(data: bytes) -> bool:
    r"""Whether a JPEG or PNG file ends before its image does.

    >>> is_truncated(b"\xff\xd8 header \xff\xda scan without an end")
    True

    OpenCV fills the missing part of such an image with grey and says nothing.
    """
    if data.startswith(b"\xff\xd8"):  # JPEG: the last scan needs an end-of-image marker
        if data.endswith(b"\xff\xd9"):
            return False
        return data.rfind(b"\xff\xd9") < max(data.rfind(b"\xff\xda"), 0)
    if data.startswith(b"\x89PNG"):
        return b"IEND" not in data[-64:]
    return False


class ImageStore:
    """Images by file name: files of a folder, or values of a mapping.

    Values of a mapping are encoded bytes or RGB arrays `[H, W, 3]` (uint8).
    """

    def __init__(self, source: ImageSource) -> None:
        self._mapping = source if isinstance(source, Mapping) else None
        self.folder = None if isinstance(source, Mapping) else Path(source)
        if self.folder is not None and not self.folder.is_dir():
            raise FileNotFoundError(f"images: there is no folder {self.folder}")

    def missing(self, names: list[str]) -> list[str]:
        """Those of the names that are not there; looks into each folder once."""
        if self._mapping is not None:
            return [name for name in names if name not in self._mapping]
        assert self.folder is not None
        present: dict[Path, set[str]] = {}
        missing = []
        for name in names:
            path = self.folder / name
            if path.parent not in present:
                there = path.parent.is_dir()
                present[path.parent] = set(os.listdir(path.parent)) if there else set()
            if path.name not in present[path.parent]:
                missing.append(name)
        return missing

    def is_encoded(self, name: str) -> bool:
        """Whether the image has to be decoded (an array has not)."""
        return self._mapping is None or not isinstance(self._mapping.get(name), np.ndarray)

    def read(self, name: str, size: tuple[int, int] | None = None, reduce: int = 1) -> ImageArray:
        """Decode an image to BGR `[H / reduce, W / reduce, 3]`.

        Args:
            name: file name or key.
            size: (width, height) that the annotations claim; None where they say nothing.
            reduce: 1, 2, 4 or 8; decode at this part of the resolution.

        Raises:
            FileNotFoundError: when there is no such image.
            ValueError: when it is empty, truncated, no image, or not of the claimed size.
        """
        data: Any
        if self._mapping is not None:
            if name not in self._mapping:
                raise FileNotFoundError(f"there is no image {name!r} in the mapping given")
            title, data = repr(name), self._mapping[name]
        else:
            assert self.folder is not None
            title = str(self.folder / name)
            try:
                with open(title, "rb") as file:
                    data = file.read()
            except FileNotFoundError:
                raise FileNotFoundError(f"there is no image {title}") from None
        if isinstance(data, np.ndarray):
            if data.dtype != np.uint8 or data.ndim != 3 or data.shape[2] != 3:
                raise ValueError(
                    f"image {title} must be uint8 [H, W, 3], got {data.dtype} {list(data.shape)}"
                )
            image = np.ascontiguousarray(data[..., ::-1])
            reduce = 1
        else:
            image = _decode(bytes(data), title, size, reduce)
        height, width = image.shape[:2]
        if size is not None and (width, height) != (-(-size[0] // reduce), -(-size[1] // reduce)):
            raise ValueError(
                f"image {title} is {width * reduce} x {height * reduce} px, but its annotation "
                f"says {size[0]} x {size[1]}: keypoints would not fit"
            )
        return image


def _decode(data: bytes, title: str, size: tuple[int, int] | None, reduce: int) -> ImageArray:
    if not data:
        raise ValueError(f"image {title} is empty (0 bytes)")
    if is_truncated(data):
        raise ValueError(f"image {title} is truncated: {len(data)} bytes and no end")
    flag = _REDUCED[reduce] if reduce > 1 else cv2.IMREAD_COLOR
    buffer = np.frombuffer(data, dtype=np.uint8)
    image: Any = cv2.imdecode(buffer, flag)
    if image is None:
        raise ValueError(f"image {title} cannot be decoded ({len(data)} bytes)")
    turned = size is not None and size[0] != size[1] and _is_turned(image, size, reduce)
    if turned:  # the annotations were made without a look at the file's orientation tag
        image = cv2.imdecode(buffer, flag | cv2.IMREAD_IGNORE_ORIENTATION)
    return np.asarray(image, dtype=np.uint8)


def _is_turned(image: ImageArray, size: tuple[int, int], reduce: int) -> bool:
    return image.shape[:2] == (-(-size[0] // reduce), -(-size[1] // reduce))
