"""Round, lit, clothed tubes: what limbs, trunks and most other things are painted with."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from cycledistill_pose.data.synthetic._canvas import Canvas, Flat, Index
from cycledistill_pose.data.synthetic._look import Material

_PATTERNS = {"plain": 0, "rings": 1, "lengthwise": 2, "checks": 3, "halves": 4}


class Tube(NamedTuple):
    """A round part about an axis from ``start`` to ``end``.

    Attributes:
        start: px.
        end: px.
        widths: two or more half widths in px, at even steps along the axis.
        material: up to ``cover`` of the axis.
        owner: number of the part.
        unit: px of a body height, for the patterns.
        caps: heights of the rounded ends in half widths: 1 is a half ball, 0.3 is flat.
        cover: part of the axis where ``material`` ends and ``beyond`` begins.
        beyond: the other material; None for the same.
        joined: the start continues another part, so it throws no shadow there and the ends are
            lit like the sides.
        decorate: gets colours `[n, 3]`, places along the axis (0 to 1) and normals x, y, z;
            returns the colours.
    """

    start: tuple[float, float]
    end: tuple[float, float]
    widths: Sequence[float] | npt.NDArray[np.float64]
    material: Material
    owner: int
    unit: float
    caps: tuple[float, float] = (1.0, 1.0)
    cover: float = 2.0
    beyond: Material | None = None
    joined: bool = False
    decorate: Callable[[Flat, Flat, Flat, Flat, Flat], Flat] | None = None


class _Stroke(NamedTuple):
    pixel: Index
    alpha: Flat
    colour: Flat
    owner: int
    shadow: Flat


def paint(canvas: Canvas, things: Iterable[Tube | Callable[[Canvas], None]]) -> None:
    """Paint tubes, and whatever paints itself, one over the other.

    The pixels of all tubes are computed together: a call for each tube would take three times
    as long.
    """
    things = list(things)
    strokes = iter(_trace(canvas, [thing for thing in things if isinstance(thing, Tube)]))
    for thing in things:
        if isinstance(thing, Tube):
            canvas.lay(*next(strokes))
        else:
            thing(canvas)


def _trace(canvas: Canvas, tubes: list[Tube]) -> list[_Stroke]:
    """Pixels, colours and shadows of each tube."""
    axes = [_axis(tube) for tube in tubes]
    indices = []
    for tube, (_, _, _, widest) in zip(tubes, axes, strict=True):
        (ax, ay), (bx, by) = tube.start, tube.end
        reach = 1.3 * widest + 1
        window = canvas.window(
            min(ax, bx) - reach, min(ay, by) - reach, max(ax, bx) + reach, max(ay, by) + reach
        )
        indices.append(canvas.index(window) if window else np.zeros(0, dtype=np.intp))
    if not indices:
        return []
    counts = [len(index) for index in indices]
    pixel = np.concatenate(indices)
    which = np.repeat(np.arange(len(tubes), dtype=np.int32), counts)

    def spread(values: Any) -> Flat:
        return np.repeat(np.array(list(values), dtype=np.float32), counts)

    x, y = canvas.place(pixel)
    ex, ey = spread(a[0] for a in axes), spread(a[1] for a in axes)
    length = spread(a[2] for a in axes)
    x -= spread(tube.start[0] for tube in tubes)
    y -= spread(tube.start[1] for tube in tubes)
    along, across = x * ex + y * ey, y * ex - x * ey
    inside = np.clip(along, 0, length)
    width = _width(tubes, counts, inside / length)
    tip = along - inside
    flat = np.where(
        tip < 0, spread(1 / t.caps[0] for t in tubes), spread(1 / t.caps[1] for t in tubes)
    )
    tip *= flat
    distance = np.sqrt(across * across + tip * tip) - width
    chosen = np.flatnonzero(distance < spread(0.3 * a[3] for a in axes))

    parts: tuple[Any, ...] = (pixel, which, ex, ey, length, along, across, width, tip, distance)
    pixel, which, ex, ey, length, along, across, width, tip, distance = (
        part.take(chosen) for part in parts
    )
    where = along / length
    joined = np.array([tube.joined for tube in tubes]).take(which)
    alpha = np.clip(np.float32(0.5) - distance, 0, 1)
    soft = np.array([0.3 * a[3] for a in axes], dtype=np.float32).take(which)
    shadow = np.float32(0.4) * np.clip(1 - distance / soft, 0, 1) * ~(joined & (where < 0.12))
    side = across / width
    tip = tip / width * np.where(joined, np.float32(0.3), np.float32(1))
    nx, ny = tip * ex - side * ey, tip * ey + side * ex
    nz = np.sqrt(np.maximum(1 - side * side - tip * tip, 0))
    colour = _cloth(tubes, which, where, along, across)
    bounds = np.searchsorted(which, np.arange(len(tubes) + 1))
    slices = [slice(a, b) for a, b in pairwise(bounds.tolist())]
    for tube, part in zip(tubes, slices, strict=True):
        if tube.decorate is not None:
            normal = (nx[part], ny[part], nz[part])
            colour[part] = tube.decorate(colour[part], where[part], *normal)
    colour *= canvas.shade(nx, ny, nz)[:, None]
    return [
        _Stroke(pixel[part], alpha[part], colour[part], tube.owner, shadow[part])
        for tube, part in zip(tubes, slices, strict=True)
    ]


def _axis(tube: Tube) -> tuple[float, float, float, float]:
    """Unit direction, length and largest half width."""
    dx, dy = tube.end[0] - tube.start[0], tube.end[1] - tube.start[1]
    length = math.hypot(dx, dy)
    ex, ey = (dx / length, dy / length) if length > 1e-3 else (0.0, 1.0)
    return ex, ey, max(length, 1e-3), float(max(tube.widths))


def _width(tubes: list[Tube], counts: list[int], where: Flat) -> Flat:
    """Half width at a place along the axis, between the two widths given next to it."""
    table = np.array([width for tube in tubes for width in tube.widths], dtype=np.float32)
    sizes = np.array([len(tube.widths) for tube in tubes], dtype=np.int32)
    first = np.repeat(np.cumsum(sizes, dtype=np.int32) - sizes, counts)
    steps = np.repeat(sizes - np.int32(1), counts)
    where = where * steps
    step = np.minimum(where.astype(np.int32), steps - np.int32(1))
    where -= step
    step += first
    low = table.take(step)
    return low + where * (table.take(step + np.int32(1)) - low)


def _cloth(tubes: list[Tube], which: Flat, where: Flat, along: Flat, across: Flat) -> Flat:
    """Colours `[n, 3]` of the materials."""
    materials = [m for tube in tubes for m in (tube.material, tube.beyond or tube.material)]
    periods = [
        max(m.period * tube.unit, 3.0)
        for tube in tubes
        for m in (tube.material, tube.beyond or tube.material)
    ]
    cover = np.array([tube.cover for tube in tubes], dtype=np.float32)
    row = 2 * which + (where >= cover.take(which))
    pattern = np.array([_PATTERNS[m.pattern] for m in materials]).take(row)
    if pattern.any():
        period = np.array(periods, dtype=np.float32).take(row)
        turn = np.float32(2 * math.pi) / period
        rings, stripes = np.sin(along * turn) > 0, np.sin(across * turn) > 0.2
        choices = [rings, stripes, rings ^ stripes, along > 2.5 * period]
        second = np.select([pattern == n for n in (1, 2, 3, 4)], choices, False)
    else:
        second = np.zeros(len(row), dtype=bool)
    palette = np.array([c for m in materials for c in (m.first, m.second)], dtype=np.float32)
    return palette.take(2 * row + second, axis=0)
