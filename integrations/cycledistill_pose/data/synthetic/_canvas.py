"""A picture made of lit capsules, of which the nearest is visible."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


class Canvas:
    """RGB floats 0 to 255 `[H, W, 3]`, and depth and owner (0: none) of each pixel."""

    def __init__(self, pixels: Floats, light: Any, ambient: float) -> None:
        self.height, self.width = pixels.shape[:2]
        self.pixels = pixels
        self.depth = np.full((self.height, self.width), np.inf, dtype=np.float32)
        self.owner = np.zeros((self.height, self.width), dtype=np.int8)
        self._light = tuple(float(value) for value in light)
        self._ambient = ambient
        self._rows = np.arange(self.height, dtype=np.float32)[:, None]
        self._columns = np.arange(self.width, dtype=np.float32)

    def capsule(
        self,
        start: Any,
        end: Any,
        radii: Any,
        colour: Any,
        owner: int,
        flat: float = 1.0,
        thickness: float = 1.0,
    ) -> None:
        """Paint a round part about an axis, except where something painted before is nearer.

        Args:
            start: X, y and depth in px.
            end: Likewise.
            radii: Two or more in px, at even steps along the axis.
            colour: `[3]`, or a function of the place along the axis (0 to 1) and the normal's x, y
                (of the picture) and z (towards the viewer), each `[h, w]`, that returns
                `[h, w, 3]`.
            owner: Number of the person it belongs to.
            flat: How much the round ends are flattened; 1 for half balls.
            thickness: Radius towards the viewer, in radii.
        """
        (ax, ay, az), (bx, by, bz) = (tuple(float(v) for v in point) for point in (start, end))
        reach = max(radii) + 1
        left, top = max(int(min(ax, bx) - reach), 0), max(int(min(ay, by) - reach), 0)
        right = min(int(max(ax, bx) + reach) + 1, self.width)
        bottom = min(int(max(ay, by) + reach) + 1, self.height)
        if left >= right or top >= bottom:
            return
        area = slice(top, bottom), slice(left, right)
        length = math.hypot(bx - ax, by - ay)
        ex, ey = ((bx - ax) / length, (by - ay) / length) if length > 1e-3 else (0.0, 1.0)
        x, y = self._columns[left:right] - np.float32(ax), self._rows[top:bottom] - np.float32(ay)
        along, across = x * ex + y * ey, y * ex - x * ey
        place = np.clip(along / max(length, 1e-3), 0, 1)
        tip = (along - place * length) * np.float32(flat)
        radius = np.interp(place, np.linspace(0, 1, len(radii)), radii).astype(np.float32)
        across, tip = across / radius, tip / radius
        square = across * across + tip * tip
        nz = np.sqrt(np.maximum(1 - square, 0))
        depth = az + (bz - az) * place - nz * radius * np.float32(thickness)
        alpha = np.clip((1 - np.sqrt(square)) * radius + np.float32(0.5), 0, 1)
        alpha *= depth < self.depth[area]
        nx, ny = tip * ex - across * ey, tip * ey + across * ex
        lx, ly, lz = self._light
        shade = self._ambient + (1.12 - self._ambient) * np.maximum(nx * lx + ny * ly + nz * lz, 0)
        painted = colour(place, nx, ny, nz) if callable(colour) else np.asarray(colour)
        pixels = self.pixels[area]
        pixels += alpha[..., None] * (painted * shade[..., None] - pixels)
        solid = alpha > 0.5
        self.depth[area][solid] = depth[solid]
        self.owner[area][solid] = owner
