"""What is behind people and what stands in front of them."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from cycledistill_pose.data.synthetic._look import draw_material
from cycledistill_pose.data.synthetic._pick import pick
from cycledistill_pose.data.synthetic._tubes import Tube

Floats = npt.NDArray[np.float32]
OBJECT = 32 * 900  # owner number of whatever is nobody's


def draw_backdrop(rng: np.random.Generator, width: int, height: int) -> Floats:
    """A wall or sky over a floor, with blotches, sometimes a pattern, and clutter."""
    base = _muted(rng, 40, 225)
    tint = rng.normal(0, 9, (2, 3)) + rng.normal(0, 12)
    rows = np.linspace(0, 1, height, dtype=np.float32)[:, None, None]
    picture = np.float32(base + tint[0]) + rows * np.float32(tint[1] * 2)
    picture = np.array(np.broadcast_to(picture, (height, width, 3)), dtype=np.float32, order="C")
    if rng.random() < 0.75:
        horizon = int(height * rng.uniform(0.45, 0.95))
        floor = np.float32(_muted(rng, 30, 210))
        shade = np.linspace(0.8, 1.15, height - horizon, dtype=np.float32)[:, None, None]
        picture[horizon:] = floor * shade
    if rng.random() < 0.4:
        _pattern(rng, picture)
    picture += _blotches(rng, width, height)
    for _ in range(int(rng.integers(2, 11))):
        _clutter(rng, picture)
    if rng.random() < 0.6:
        picture = np.asarray(cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.6, 2.0)))
    return np.clip(picture, 0, 255, out=picture)


def grain(rng: np.random.Generator, picture: Floats) -> None:
    """Sensor noise, in place."""
    height, width = picture.shape[:2]
    strength = np.float32(abs(rng.normal(0, 5)))
    y, x = (int(v) for v in rng.integers(0, 64, 2))
    repeats = (-(-(height + y) // 128), -(-(width + x) // 128), 1)
    picture += strength * np.tile(_NOISE, repeats)[y : y + height, x : x + width]


def draw_obstacle(rng: np.random.Generator, box: Any, height: int) -> list[Tube]:
    """Something in front of the person in the box: a pole, a board, a ball, a bush."""
    left, top, right, bottom = box
    wide, tall = right - left, bottom - top
    material = draw_material(rng)
    x, y = left + wide * rng.uniform(-0.1, 1.1), top + tall * rng.uniform(0.25, 1.05)

    def tube(ax: float, ay: float, bx: float, by: float, half: float, cap: float = 1.0) -> Tube:
        widths = np.full(2, half * tall)
        return Tube((ax, ay), (bx, by), widths, material, OBJECT, unit=tall, caps=(cap, cap))

    kind = pick(rng, {"pole": 1, "board": 1, "ball": 1, "bush": 1})
    if kind == "pole":
        lean = wide * rng.normal(0, 0.15)
        return [tube(x - lean, -20, x + lean, height + 20, rng.uniform(0.03, 0.08))]
    if kind == "ball":
        return [tube(x, y, x + 0.5, y + 0.5, rng.uniform(0.07, 0.16))]
    if kind == "bush":
        leaves = np.array([x, y]) + rng.normal(0, 0.14, (9, 2)) * tall
        return [tube(a, b, a + 3, b + 3, rng.uniform(0.03, 0.07)) for a, b in leaves]
    reach = rng.uniform(0.1, 0.5) * wide
    slope = reach * rng.normal(0, 0.3)
    half = rng.uniform(0.06, 0.16)
    return [tube(x - reach, y - slope, x + reach, y + slope, half, cap=0.1)]


def draw_distractors(rng: np.random.Generator, width: int, height: int) -> list[Tube]:
    """Lit, clothed tubes that belong to nobody, so that a tube alone is no limb."""
    size = min(height, width)
    tubes = []
    for _ in range(int(rng.integers(0, 4))):
        x, y = rng.uniform(0, width), rng.uniform(0, height)
        angle, length = rng.uniform(0, np.pi), rng.uniform(0.1, 0.5) * size
        end = (x + length * np.cos(angle), y + length * np.sin(angle))
        widths = np.linspace(rng.uniform(0.012, 0.05), rng.uniform(0.012, 0.05), 4) * size
        tubes.append(Tube((x, y), end, widths, draw_material(rng), OBJECT, unit=size))
    return tubes


def _muted(rng: np.random.Generator, low: float, high: float, strength: float = 0.4) -> Any:
    """A colour; at strength 0 a grey."""
    grey = rng.uniform(low, high)
    return grey + strength * (rng.uniform(low, high, 3) - grey)


def _blotches(rng: np.random.Generator, width: int, height: int) -> Any:
    """Smooth noise of two sizes, more light and dark than coloured; made at half resolution."""
    half = (-(-width // 2), -(-height // 2))
    total = np.zeros((half[1], half[0], 3), dtype=np.float32)
    for cell, amount in ((24, rng.uniform(4, 22)), (5, rng.uniform(2, 12))):
        rows, columns = half[1] // cell + 3, half[0] // cell + 3
        coarse = rng.standard_normal((rows, columns, 4), dtype=np.float32) * np.float32(amount)
        mixed = np.float32(0.35) * coarse[..., :3] + np.float32(0.8) * coarse[..., 3:]
        total += cv2.resize(mixed, half, interpolation=cv2.INTER_CUBIC)
    return cv2.resize(total, (width, height), interpolation=cv2.INTER_LINEAR)


def _pattern(rng: np.random.Generator, picture: Floats) -> None:
    """Stripes, tiles or boards."""
    height, width = picture.shape[:2]
    step = rng.uniform(6, 40, 2)
    x = (np.arange(width) % step[0] < step[0] * rng.uniform(0.05, 0.5))[None]
    y = (np.arange(height) % step[1] < step[1] * rng.uniform(0.05, 0.5))[:, None]
    kind = rng.integers(4)
    mask = (x | (y & False), y | (x & False), x | y, x ^ y)[int(kind)]
    picture *= np.where(mask, np.float32(rng.uniform(0.6, 1.3)), np.float32(1))[..., None]


def _clutter(rng: np.random.Generator, picture: Floats) -> None:
    """A thing behind people: box, disc, bar or polygon."""
    height, width = picture.shape[:2]
    colour = tuple(float(v) for v in _muted(rng, 20, 235, 0.75))
    x, y = int(rng.uniform(0, width)), int(rng.uniform(0, height))
    a, b = (int(v) for v in rng.uniform(0.03, 0.28, 2) * height)
    kind = rng.integers(4)
    if kind == 0:
        cv2.rectangle(picture, (x - a, y - b), (x + a, y + b), colour, -1)
        inner = tuple(0.85 * v for v in colour)
        cv2.rectangle(picture, (x - a, y - b), (x + a, y), inner, -1)
    elif kind == 1:
        angle = float(rng.uniform(0, 180))
        cv2.ellipse(picture, (x, y), (a, b), angle, 0, 360, colour, -1)
    elif kind == 2:
        end = (x + int(rng.normal(0, 0.4 * width)), y + int(rng.normal(0, 0.4 * height)))
        cv2.line(picture, (x, y), end, colour, int(rng.integers(1, 10)))
    else:
        corners = (np.array([x, y]) + rng.normal(0, 0.12 * height, (5, 2))).astype(np.int32)
        cv2.fillPoly(picture, [corners], colour)


_NOISE = np.random.default_rng(0).standard_normal((128, 128, 3), dtype=np.float32)
