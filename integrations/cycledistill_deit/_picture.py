"""Opening one image."""

from __future__ import annotations

from typing import Any

from PIL import Image, UnidentifiedImageError


def open_image(file: Any, mode: str, name: str | None = None) -> Image.Image:
    """Read an image from a path or an open file, in PIL's ``mode``.

    Raises:
        ValueError: It cannot be read; the text has ``name``, or else the path.
    """
    try:
        with Image.open(file) as image:
            return image.convert(mode)
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise ValueError(f"cannot read the image {name or file}: {error}") from error
