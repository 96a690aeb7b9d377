"""Decoding of files, bytes, Pillow images and arrays, all to upright RGB."""

from __future__ import annotations

import contextlib
import io
import os
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from cycledistill.saving._pixels import to_eight_bits

ImageArray = npt.NDArray[np.uint8]
Size = tuple[int, int]

_ORIENTATION = 0x0112  # the EXIF tag; 1 is upright, 5 to 8 change width and height
_BACK = {6: 8, 8: 6}  # the other orientations are their own inverse
# A marker of a JPEG that ends its entropy-coded data: neither stuffing, restart nor padding.
_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd7\xff]")


class BadImageError(ValueError):
    """An image that cannot be decoded, or whose size differs from its annotation.

    ``bad_images="skip"`` and ``--skip-bad-images`` skip such images.
    """


def read_rgb(source: Any, size: Size | None = None, reduce: int = 1, title: str = "") -> ImageArray:
    """Upright RGB pixels `[H / reduce, W / reduce, 3]` (uint8) of a picture.

    >>> read_rgb(Image.new("L", (4, 3), 7)).shape
    (3, 4, 3)

    Greys and palettes become colours, alpha is dropped, 16 bits are reduced to the upper 8, and the
    first frame of an animation is taken. Bytes after the picture's end are ignored. A photo is
    turned according to its EXIF orientation, unless ``size`` is that of the photo as it is stored,
    on its side: then its boxes were measured without regard to the orientation.

    Args:
        source: Path, encoded bytes, Pillow image, or array: `[H, W]` grey, or `[H, W, C]` with C
            of 1 (grey), 2 (grey, alpha), 3 (RGB) or 4 (RGB, alpha), of uint8, uint16 or bool.
        size: (width, height) according to the picture's annotations; None if they do not say.
        reduce: 1, 2, 4 or 8; factor by which to shrink what is decoded. Arrays are not shrunk.
        title: Name for errors; by default the path.
    """
    if isinstance(source, str | os.PathLike):
        title = title or f"image {os.fspath(source)}"
        source = _file_content(source, title)
    title = title or "image"
    size = None if size is None else (int(size[0]), int(size[1]))
    if isinstance(source, bytes | bytearray | memoryview):
        pixels, full = _decode(bytes(source), title, size, reduce)
    elif isinstance(source, Image.Image):
        with _named_errors(title):
            pixels, full = _upright(source, size, 1)
    else:
        pixels = _colours(np.asarray(source), title)
        full = (pixels.shape[1], pixels.shape[0])
    if size is not None and full != size:
        raise BadImageError(
            f"{title} is {full[0]} x {full[1]} px, but its annotation says {size[0]} x {size[1]}: "
            "keypoints would not fit"
        )
    return np.ascontiguousarray(pixels)


def _file_content(path: str | os.PathLike[str], title: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no {title}") from None
    except (IsADirectoryError, PermissionError) as error:
        raise BadImageError(f"{title} cannot be read: {error.strerror}") from error


def _decode(data: bytes, title: str, size: Size | None, reduce: int) -> tuple[ImageArray, Size]:
    if not data:
        raise BadImageError(f"{title} is empty (0 bytes)")
    if is_truncated(data):
        raise BadImageError(f"{title} is truncated: {len(data)} bytes without an end")
    with _named_errors(title, f"{len(data)} bytes"), Image.open(io.BytesIO(data)) as opened:
        return _upright(opened, size, reduce)


@contextlib.contextmanager
def _named_errors(title: str, what: str = "its data") -> Iterator[None]:
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:  # Pillow's decoders raise errors of any type for damaged data
        why = "unknown format" if isinstance(error, UnidentifiedImageError) else error
        raise BadImageError(
            f"{title} cannot be read as an image: {what} cannot be decoded ({why})"
        ) from error


def _upright(image: Image.Image, size: Size | None, reduce: int) -> tuple[ImageArray, Size]:
    """Pixels of an opened picture, and its full width and height."""
    whole = image.size
    # Pillow turns a TIFF by itself as it loads it. Of others the tag may stand behind the pixels.
    turned = _orientation(image) if image.format == "TIFF" else 1
    # Blocks of pixels count from the corner of the upright picture: a turned one that does not
    # consist of whole blocks shrinks at the end.
    uneven = bool(whole[0] % reduce or whole[1] % reduce)
    late = uneven and image.format in ("JPEG", "MPO") and _orientation(image) != 1
    if reduce > 1 and not late:  # a JPEG is decoded smaller; anything else is made so afterwards
        image.draft(None, (max(whole[0] // reduce, 1), max(whole[1] // reduce, 1)))
    image.load()
    left = _orientation(image)
    stored = left if turned == 1 else turned
    late = uneven and stored != 1
    if left != stored:
        whole = image.size
    remaining = reduce // max(round(whole[0] / image.width), round(whole[1] / image.height), 1)
    pixels = _turned(_rgb(image, 1 if late else remaining), left)
    if left > 4:
        whole = whole[::-1]
    if size is not None and stored > 4 and size == whole[::-1] != whole:
        pixels, whole = _turned(pixels, _BACK.get(stored, stored)), whole[::-1]
    if late:
        pixels = np.asarray(Image.fromarray(pixels).reduce(reduce))
    return pixels, whole


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # damaged EXIF data does not make a bad picture
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _turned(pixels: ImageArray, orientation: int) -> ImageArray:
    """Pixels that are stored in an EXIF orientation, upright."""
    if orientation > 4:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels[::-1] if orientation in (3, 4, 7, 8) else pixels


def _rgb(image: Image.Image, reduce: int) -> ImageArray:
    image = to_eight_bits(image)
    if image.mode != "RGB":
        image = image.convert("RGB")
    return np.asarray(image if reduce == 1 else image.reduce(reduce))


def _colours(array: npt.NDArray[Any], title: str) -> ImageArray:
    """An array as RGB `[H, W, 3]`."""
    channels = array.shape[2] if array.ndim == 3 else 1
    fits = array.ndim in (2, 3) and array.size > 0 and 1 <= channels <= 4
    if array.dtype.newbyteorder("=") not in (np.uint8, np.uint16, np.bool_) or not fits:
        raise BadImageError(
            f"{title}: expected uint8 [H, W, 3], got {array.dtype} {list(array.shape)} (one or two "
            "channels of grey, a fourth of alpha, uint16 and bool are fine too)"
        )
    if array.dtype == np.bool_:
        array = array * np.uint8(255)
    elif array.dtype.itemsize == 2:
        array = (array >> 8).astype(np.uint8)
    if channels < 3:
        grey = array.reshape(*array.shape[:2], channels)[..., :1]
        return np.repeat(grey, 3, axis=2)
    return array[..., :3]


def is_truncated(data: bytes) -> bool:
    r"""Whether a JPEG or PNG file ends before its image does; bytes after the end do not matter.

    >>> is_truncated(b"\xff\xd8 header \xff\xda scan without an end")
    True
    """
    place = 0
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        place = 8
        while data[place + 4 : place + 8] != b"IEND":
            place += 12 + int.from_bytes(data[place : place + 4], "big")
            if place >= len(data):
                return True
        return len(data) < place + 12
    if data.startswith(b"\xff\xd8"):
        place = 2
        while found := _MARKER.search(data, place):
            if found[0] == b"\xff\xd9":
                return False
            place = found.end() + int.from_bytes(data[found.end() : found.end() + 2], "big")
        return True
    return False
