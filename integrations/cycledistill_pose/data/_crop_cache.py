"""Decoded images in files, for many processes at once."""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from cycledistill.saving._files import replacing_file
from cycledistill_pose.data._picture import ImageArray

_HEADER = 256  # bytes before the pixels
_FORMAT = "cycledistill image 4"


# An image file, the factor by which the decoded image is smaller (1, 2, 4 or 8), and the (width,
# height) that its annotation says. All of them determine the pixels.
ImageKey = tuple[str, int, tuple[int, int] | None]


class CropCache:
    """Decoded images, one raw file each, mapped into memory.

    A file holds four bytes a pixel, RGB and an empty one: crops of these take half the time of
    crops of three. A header before them says height and width, a checksum, and the source's size
    and modification time. If these have changed, or the file is damaged (wrong length, or wrong
    checksum when a process first opens it), the source is decoded and the file is written again.
    Files are written under a temporary name and renamed, so several processes can fill and read one
    folder at once, and they share the mapped memory.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        if self.folder.exists() and not self.folder.is_dir():
            raise ValueError(f"crop_cache: expected a folder, got the file {self.folder}")
        self._checked: set[tuple[int, int, int]] = set()
        self._can_write = True

    def read(self, image: ImageKey, decode: Callable[[], ImageArray]) -> ImageArray:
        """The pixels `[H, W, 4]` of an image."""
        try:
            found = os.stat(image[0])
        except FileNotFoundError:
            raise FileNotFoundError(f"there is no image {image[0]}") from None
        path, state = self.path(image), [found.st_size, found.st_mtime_ns]
        pixels = self._map(path, state)
        if pixels is None:
            pixels = np.asarray(cv2.cvtColor(decode(), cv2.COLOR_RGB2RGBA), dtype=np.uint8)
            if self._can_write:
                self._write(path, state, pixels)
        return pixels

    def path(self, image: ImageKey) -> Path:
        """Where the file of an image is."""
        text = json.dumps([_FORMAT, os.path.abspath(image[0]), *image[1:]])
        name = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
        return self.folder / name[:2] / f"{name}.rgbx"

    def _map(self, path: Path, state: list[int]) -> ImageArray | None:
        """The pixels in a file, or None if the file is missing, damaged or outdated."""
        try:
            with open(path, "rb") as file:
                info = os.fstat(file.fileno())
                content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            size, checksum, source = json.loads(content[:_HEADER])
            pixels = np.frombuffer(content, np.uint8, offset=_HEADER).reshape(*size, 4)
        except (OSError, ValueError, TypeError):
            return None
        identity = (info.st_dev, info.st_ino, info.st_mtime_ns)
        if source != state or (
            identity not in self._checked and checksum != zlib.crc32(pixels.data)
        ):
            return None
        self._checked.add(identity)
        return pixels

    def _write(self, path: Path, state: list[int], pixels: ImageArray) -> None:
        """Write an image; a failure ends the caching but not the run."""
        header = json.dumps([pixels.shape[:2], zlib.crc32(pixels.data), state])
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing_file(path) as temporary, open(temporary, "wb") as file:
                file.write(header.encode().ljust(_HEADER))
                file.write(pixels.data)
        except OSError as error:
            self._can_write = False
            warnings.warn(
                f"the crop cache {self.folder} cannot be written to ({error}); "
                "images that are not in it yet will be decoded every time",
                stacklevel=2,
            )
