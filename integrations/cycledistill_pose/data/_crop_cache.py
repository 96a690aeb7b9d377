"""Decoded parts of images in files, for many processes at once."""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import warnings
import zlib
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cycledistill.saving._files import replacing_file
from cycledistill_pose.data._crop import Rectangle
from cycledistill_pose.data._picture import ImageArray

_HEADER = 512  # bytes before the pixels
_FORMAT = "cycledistill region 2"
_MAX_OPEN = 128


class Region(NamedTuple):
    """A decoded part of an image.

    Attributes:
        pixels: `[h, w, C]`.
        part: Where in the image they are.
        image_size: (width, height) of the image.
    """

    pixels: ImageArray
    part: Rectangle
    image_size: tuple[int, int]


class RegionRequest(NamedTuple):
    """A request to the cache; all its fields together determine the name of the file.

    Attributes:
        source: The image file.
        part: Part of the image as decoded; may reach beyond it.
        reduce: 1, 2, 4 or 8; the factor by which the decoded image is smaller.
        claimed_size: (width, height) of the image according to its annotation.
    """

    source: str
    part: Rectangle
    reduce: int
    claimed_size: tuple[int, int] | None


class CropCache:
    """Parts of decoded images, one raw file each, mapped into memory.

    A file holds a header and four bytes a pixel, RGB and an empty one: crops of these take half the
    time of crops of three. The header names the request and the source's size and modification
    time. If these have changed, or the file is damaged (wrong length, or wrong checksum when a
    process first opens it), the source is decoded and the file is written again. Files are written
    under a temporary name and renamed, so several processes can fill and read one folder at once,
    and they share the mapped memory.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        if self.folder.exists() and not self.folder.is_dir():
            raise ValueError(f"crop_cache: expected a folder, got the file {self.folder}")
        self._open: OrderedDict[RegionRequest, tuple[tuple[int, int], Region]] = OrderedDict()
        self._checked: set[tuple[int, int, int]] = set()
        self._can_write = True

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_open": OrderedDict(), "_checked": set()}

    def read(self, request: RegionRequest, decode: Callable[[], ImageArray]) -> Region:
        """The requested part."""
        try:
            found = os.stat(request.source)
        except FileNotFoundError:
            raise FileNotFoundError(f"there is no image {request.source}") from None
        state = (found.st_size, found.st_mtime_ns)
        held = self._open.get(request)
        if held is not None and held[0] == state:
            self._open.move_to_end(request)
            return held[1]
        path = self.path(request)
        region = self._map(path, request, state)
        if region is None:
            region = _cut(decode(), request)
            if not self._write(path, request, state, region):
                return region
            region = self._map(path, request, state) or region
        self._open[request] = (state, region)
        self._open.move_to_end(request)
        if len(self._open) > _MAX_OPEN:
            self._open.popitem(last=False)
        return region

    def path(self, request: RegionRequest) -> Path:
        """Where the file of a request is."""
        text = json.dumps([_FORMAT, os.path.abspath(request.source), *request[1:]])
        name = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
        return self.folder / name[:2] / f"{name}.rgbx"

    def _map(self, path: Path, request: RegionRequest, state: tuple[int, int]) -> Region | None:
        """The region in a file, or None if the file is missing, damaged or outdated."""
        try:
            with open(path, "rb") as file:
                info = os.fstat(file.fileno())
                if info.st_size <= _HEADER:
                    return None
                content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError):
            return None
        try:
            header = json.loads(content[:_HEADER])
            part, size = Rectangle(*header["part"]), header["image_size"]
            height, width = part.bottom - part.top, part.right - part.left
            if header != _header(request, state, part, tuple(size), header["crc32"]):
                return None
            if info.st_size != _HEADER + 4 * height * width:
                return None
        except (ValueError, KeyError, TypeError):
            return None
        pixels = np.frombuffer(content, np.uint8, offset=_HEADER).reshape(height, width, 4)
        identity = (info.st_dev, info.st_ino, info.st_mtime_ns)
        if identity not in self._checked:
            if zlib.crc32(pixels.data) != header["crc32"]:
                return None
            self._checked.add(identity)
        return Region(pixels, part, (int(size[0]), int(size[1])))

    def _write(
        self, path: Path, request: RegionRequest, state: tuple[int, int], region: Region
    ) -> bool:
        """Write a region; False if that failed, which ends the caching but not the run."""
        if not self._can_write or region.pixels.size == 0:
            return False
        checksum = zlib.crc32(region.pixels.data)
        header = _header(request, state, region.part, region.image_size, checksum)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing_file(path) as temporary, open(temporary, "wb") as file:
                file.write(json.dumps(header).encode().ljust(_HEADER))
                file.write(region.pixels.data)
        except OSError as error:
            self._can_write = False
            warnings.warn(
                f"the crop cache {self.folder} cannot be written to ({error}); "
                "images that are not in it yet will be decoded every time",
                stacklevel=2,
            )
            return False
        return True


def _cut(image: ImageArray, request: RegionRequest) -> Region:
    height, width = image.shape[:2]
    part = request.part.clip(width, height)
    pixels = np.zeros((part.bottom - part.top, part.right - part.left, 4), np.uint8)
    pixels[..., :3] = image[part.top : part.bottom, part.left : part.right]
    return Region(pixels, part, (width, height))


def _header(
    request: RegionRequest,
    state: tuple[int, int],
    part: Rectangle,
    image_size: tuple[int, ...],
    checksum: int,
) -> dict[str, Any]:
    """What is stored before the pixels; as JSON less than 512 bytes for any path."""
    return {
        "format": _FORMAT,
        "source": ascii(os.path.basename(request.source))[-64:],
        "source_size": state[0],
        "source_mtime_ns": state[1],
        "request": [list(request.part), request.reduce, list(request.claimed_size or [])],
        "part": list(part),
        "image_size": list(image_size),
        "crc32": checksum,
    }
