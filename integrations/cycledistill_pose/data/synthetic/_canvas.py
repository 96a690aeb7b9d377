"""A picture to paint on, and who is to be seen at each of its pixels."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Flat = npt.NDArray[Any]
Index = npt.NDArray[np.intp]


class Canvas:
    """RGB floats 0 to 255 `[H, W, 3]` and who was painted last at each pixel (0: nobody).

    Owners are numbers 32 x person + part, so ``owner >> 5`` is the person.
    """

    def __init__(self, pixels: Floats, light: tuple[float, float, float], ambient: float) -> None:
        self.height, self.width = pixels.shape[:2]
        self.pixels = pixels
        self.owner = np.zeros((self.height, self.width), dtype=np.int16)
        self._light = light
        self._ambient = ambient
        self._index = np.arange(self.height * self.width).reshape(self.height, self.width)

    def shade(self, nx: Any, ny: Any, nz: Any) -> Any:
        """Brightness of a surface with this normal (z towards the viewer)."""
        lx, ly, lz = self._light
        lit = np.maximum(nx * lx + ny * ly + nz * lz, 0)
        return self._ambient + (1.12 - self._ambient) * lit

    def window(
        self, left: float, top: float, right: float, bottom: float
    ) -> tuple[slice, slice] | None:
        """Rows and columns of a rectangle that lie on the canvas."""
        x0, x1 = max(0, math.floor(left)), min(self.width, math.ceil(right) + 1)
        y0, y1 = max(0, math.floor(top)), min(self.height, math.ceil(bottom) + 1)
        return (slice(y0, y1), slice(x0, x1)) if x1 > x0 and y1 > y0 else None

    def index(self, window: tuple[slice, slice]) -> Index:
        """Flat indices of the pixels of a window."""
        return self._index[window].ravel()

    def place(self, index: Index) -> tuple[Floats, Floats]:
        """Columns and rows of flat indices."""
        rows, columns = np.divmod(index.astype(np.int32), np.int32(self.width))
        return columns.astype(np.float32), rows.astype(np.float32)

    def lay(
        self, index: Index, alpha: Flat, colour: Flat, owner: int, shadow: Flat | None = None
    ) -> None:
        """Blend colours `[n, 3]` over pixels; ``shadow`` `[n]` darkens the same person."""
        pixels, owners = self.pixels.reshape(-1, 3), self.owner.reshape(-1)
        beneath = pixels.take(index, axis=0)
        if shadow is not None:
            same = (owners.take(index) >> 5) == (owner >> 5)
            beneath *= (1 - shadow * same)[:, None]
        colour = colour - beneath
        colour *= alpha[:, None]
        colour += beneath
        pixels[index] = colour
        owners[index[alpha > 0.5]] = owner
