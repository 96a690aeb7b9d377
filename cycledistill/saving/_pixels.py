"""Pillow images of more than 8 bits a channel."""

from __future__ import annotations

import numpy as np
from PIL import Image


def to_eight_bits(image: Image.Image) -> Image.Image:
    """Reduce greys of 16 bits to the upper 8; Pillow's `convert` would make them white.

    Raises:
        ValueError: They have 32 bits, or are floating-point numbers.
    """
    if image.mode == "F":
        raise ValueError("expected 8 or 16 bits a channel, got floating-point numbers")
    if image.mode != "I" and not image.mode.startswith("I;16"):
        return image
    grey = np.asarray(image)
    if grey.min() < 0 or grey.max() > 65535:
        raise ValueError("expected 8 or 16 bits a channel, got 32")
    return Image.fromarray((grey >> 8).astype(np.uint8))
