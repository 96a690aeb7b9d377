"""Painting a head: skin, hair, face, and hat as functions of the direction on a ball."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from cycledistill_pose.data.synthetic._canvas import Canvas
from cycledistill_pose.data.synthetic._look import Look, Material
from cycledistill_pose.data.synthetic._tubes import Tube

Matrix = npt.NDArray[np.float64]

# Directions from the middle of the head: left, up, forward as the person feels them.
FACE = {
    "nose": (0.0, -0.16, 1.0),
    "left_eye": (0.36, 0.1, 0.93),
    "right_eye": (-0.36, 0.1, 0.93),
    "left_ear": (1.0, -0.06, -0.08),
    "right_ear": (-1.0, -0.06, -0.08),
}
HALF_WIDTH = 0.06
HALF_HEIGHT = 0.078
_HAIR_SHELL = 1.13
_LIPS = np.array([90, 36, 36], dtype=np.float32)


class HeadPlane:
    """Where a head's ball lands in the picture: an ellipse whose long axis is the head's up."""

    def __init__(self, centre: tuple[float, float], frame: Matrix, size: float) -> None:
        self.centre = centre
        self.frame = frame
        up_x, up_y = float(frame[0, 1]), float(frame[1, 1])
        length = math.hypot(up_x, up_y)
        self.up = (up_x / length, up_y / length) if length > 0.05 else (0.0, -1.0)
        # Seen from above or below a head is as round as it is wide.
        tall = HALF_WIDTH + (HALF_HEIGHT - HALF_WIDTH) * min(length, 1.0)
        self.half = (HALF_WIDTH * size, tall * size)

    def place(self, direction: tuple[float, float, float]) -> tuple[float, float, float]:
        """Picture px of a direction on the ball, and its z (below 0: on the viewer's side)."""
        x, y, z = (float(v) for v in self.frame @ np.array(direction))
        ux, uy = self.up
        along, across = x * ux + y * uy, x * -uy + y * ux
        px = self.centre[0] + along * self.half[1] * ux - across * self.half[0] * uy
        py = self.centre[1] + along * self.half[1] * uy + across * self.half[0] * ux
        return px, py, z


def paint_head(canvas: Canvas, plane: HeadPlane, look: Look, owner: int) -> None:
    """Paint skin, face, hair and hat."""
    (cx, cy), (ux, uy), (wide, tall) = plane.centre, plane.up, plane.half
    reach = _HAIR_SHELL * tall + 2
    window = canvas.window(cx - reach, cy - reach, cx + reach, cy + reach)
    if window is None:
        return
    index = canvas.index(window)
    x, y = canvas.place(index)
    x -= np.float32(cx)
    y -= np.float32(cy)
    along = (x * ux + y * uy) / np.float32(tall)
    across = (y * ux - x * uy) / np.float32(wide)
    # The jaw is narrower than the skull.
    across *= 1 + np.float32(0.22) * np.clip(-along, 0, 1) ** 2
    radius = np.sqrt(along * along + across * across)
    chosen = np.flatnonzero(radius < _HAIR_SHELL + 1 / tall)
    index, along, across, radius = (a[chosen] for a in (index, along, across, radius))
    rim = np.maximum(radius, 1)
    nx, ny = (along * ux - across * uy) / rim, (along * uy + across * ux) / rim
    nz = np.sqrt(np.maximum(1 - nx * nx - ny * ny, 0))
    left, up, forward = plane.frame.T.astype(np.float32) @ np.stack([nx, ny, -nz])

    hair = _hair(look, left, up, forward)
    colour = _face(look, left, up, forward, wide)
    colour = np.where(hair[:, None], _stripes(look.hair, across * wide, wide), colour)
    if look.hat is not None:
        cap = up > 0.3 + 0.12 * forward
        colour = np.where(cap[:, None], _stripes(look.hat, across * wide, wide), colour)
        colour[(forward > 0.3) & (up > 0.3) & (up < 0.48)] *= 0.55
        hair = hair | cap
    alpha = (np.where(hair, np.float32(_HAIR_SHELL), np.float32(1)) - radius) * tall + 0.5
    colour *= canvas.shade(nx, ny, nz)[:, None]
    canvas.lay(index, np.clip(alpha, 0, 1), colour, owner)


def ear(plane: HeadPlane, look: Look, owner: int, name: str) -> Tube:
    """The ear of this name."""
    x, y, z = plane.place(FACE[name])
    size = plane.half[0]
    (ux, uy), tall = plane.up, 0.2 * size
    return Tube(
        (x + ux * tall, y + uy * tall),
        (x - ux * tall, y - uy * tall),
        np.array([1.2, 0.9]) * (0.12 + 0.16 * abs(z)) * size,
        look.skin,
        owner,
        unit=size,
    )


def _stripes(material: Material, across: Any, wide: float) -> Any:
    """Colours `[n, 3]` that alternate from one side of the head to the other."""
    if material.pattern == "plain":
        return material.first
    second = np.sin(across * (2 * math.pi / max(12 * wide * material.period, 3))) > 0.2
    return np.where(second[:, None], material.second, material.first)


def _hair(look: Look, left: Any, up: Any, forward: Any) -> Any:
    """Which directions hair grows on."""
    if look.hair_length < 0:
        return np.zeros(left.shape, dtype=bool)
    line = 0.02 + 0.98 * np.clip((up - 0.34) / 0.3, 0, 1)
    nape = -0.35 if look.hair_length == 0 else -1.0
    sides = np.where(np.abs(left) > 0.8, forward + 0.25, forward) if look.hair_length else forward
    return (sides < line) & (up > nape)


def _face(look: Look, left: Any, up: Any, forward: Any, wide: float) -> Any:
    """Skin with eyes, brows, nose, mouth, beard and glasses `[n, 3]`."""
    colour = np.repeat(look.skin.first[None], len(left), 0)
    front = forward > 0
    blur = 0.6 / max(wide, 3.0)  # features keep a visible size in small pictures

    def ellipse(x: float, y: float, a: float, b: float) -> Any:
        return front & (((left - x) / (a + blur)) ** 2 + ((up - y) / (b + blur)) ** 2 < 1)

    if look.beard:
        beard = front & (up < -0.3) & (forward < 1.05 + 0.5 * up + 0.9 * np.abs(left))
        colour[beard] = look.hair.first * 0.9
    colour[ellipse(0, -0.2, 0.13, 0.2)] *= 1.06
    colour[ellipse(0, -0.32, 0.14, 0.03)] *= 0.72
    colour[ellipse(0, -0.55, 0.24, 0.05)] = _LIPS + look.skin.first * 0.25
    for side in (-1.0, 1.0):
        colour[ellipse(side * 0.36, 0.1, 0.17, 0.1)] = 245
        colour[ellipse(side * 0.36, 0.1, 0.075, 0.09)] = 20
        colour[ellipse(side * 0.36, 0.27, 0.19, 0.025)] = look.hair.first * 0.6
        if look.glasses:
            ring = ellipse(side * 0.38, 0.08, 0.25, 0.18) & ~ellipse(side * 0.38, 0.08, 0.19, 0.12)
            colour[ring] = 20
    return colour
