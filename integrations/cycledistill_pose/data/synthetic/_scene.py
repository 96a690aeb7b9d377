"""A whole picture with people, and what an annotator would write about them."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from cycledistill_pose.data.synthetic._canvas import Canvas
from cycledistill_pose.data.synthetic._figure import Figure, Thing
from cycledistill_pose.data.synthetic._pick import pick
from cycledistill_pose.data.synthetic._scenery import (
    draw_backdrop,
    draw_distractors,
    draw_obstacle,
    grain,
)
from cycledistill_pose.data.synthetic._tubes import paint


class Person(NamedTuple):
    """What is known of one person of a picture.

    Attributes:
        keypoints: `[17, 3]` x, y (px) and COCO's visibility: 0 not labelled (out of the picture,
            or a face seen from behind), 1 labelled but hidden, 2 seen.
        box_xyxy: `[4]` px, around what is seen.
        area: px that are seen.
    """

    keypoints: npt.NDArray[np.float64]
    box_xyxy: npt.NDArray[np.float64]
    area: int


class Scene(NamedTuple):
    """A picture `[H, W, 3]` (RGB, uint8) and its people, the most visible one first."""

    image: npt.NDArray[np.uint8]
    people: tuple[Person, ...]


def draw_scene(rng: np.random.Generator, width: int, height: int, easy: bool = False) -> Scene:
    """Draw one to four people in front of something, and now and then behind something.

    Args:
        rng: source of all randomness.
        width: px of the picture.
        height: px of the picture.
        easy: one whole upright person, seen from the front, with nothing in the way.
    """
    while True:
        scene = _draw(rng, width, height, easy)
        if scene.people:
            return scene


def _draw(rng: np.random.Generator, width: int, height: int, easy: bool) -> Scene:
    light = np.array([rng.normal(0, 0.6), -abs(rng.normal(0.6, 0.3)), 1.0])
    light /= np.linalg.norm(light)
    ambient = float(rng.uniform(0.35, 0.65))
    backdrop = draw_backdrop(rng, width, height)
    canvas = Canvas(backdrop, (float(light[0]), float(light[1]), float(light[2])), ambient)
    things: list[Thing] = [] if easy else [*draw_distractors(rng, width, height)]
    figures = _draw_figures(rng, width, height, easy)
    for number, figure in enumerate(figures, start=1):
        things.append(partial(_drop_shadow, figure=figure, strength=rng.uniform(0.15, 0.5)))
        things.extend(figure.things(number))
    if not easy and rng.random() < 0.35:
        things.extend(draw_obstacle(rng, figures[-1].bounds(), height))
    paint(canvas, things)
    people = [_annotate(canvas, figure, number) for number, figure in enumerate(figures, start=1)]
    known = sorted((person for person in people if person is not None), key=lambda p: -p.area)
    return Scene(_develop(rng, canvas.pixels), tuple(known))


def _draw_figures(rng: np.random.Generator, width: int, height: int, easy: bool) -> list[Figure]:
    """People from the farthest, who are smaller and stand higher, to the nearest."""
    count = 1 if easy else pick(rng, {1: 0.58, 2: 0.25, 3: 0.12, 4: 0.05})
    farther = np.sort(rng.uniform(0.35, 0.9, count - 1)) * height
    close = not easy and rng.random() < 0.18
    nearest = rng.uniform(1.1, 1.9) if close else rng.uniform(0.62, 0.98)
    sizes = [*farther.tolist(), height * nearest]
    figures = []
    for size in sizes:
        figure = Figure.draw(rng, size, easy)
        left, _, right, bottom = figure.bounds()
        room = width - (right - left)
        middle = width / 2 + rng.uniform(-0.5, 0.5) * max(room, 0.3 * width)
        floor = height * rng.uniform(0.9, 1.08) - max(height - size, 0) * 0.4
        if size > height:  # the picture shows the upper part, seldom the lower one
            floor = height * rng.uniform(0.0, 0.08) + (size if rng.random() < 0.85 else height)
        figures.append(figure.moved(middle - (left + right) / 2, floor - bottom))
    return figures


def _drop_shadow(canvas: Canvas, figure: Figure, strength: float) -> None:
    """A soft dark patch under the feet."""
    left, _, right, bottom = figure.bounds()
    x, y = (left + right) / 2, bottom - 0.02 * figure.scale
    a, b = 0.45 * (right - left), 0.05 * figure.scale
    window = canvas.window(x - a, y - b, x + a, y + b)
    if window is None:
        return
    index = canvas.index(window)
    px, py = canvas.place(index)
    dark = strength * np.clip(1 - ((px - x) / a) ** 2 - ((py - y) / b) ** 2, 0, 1)
    dark *= canvas.owner.reshape(-1)[index] == 0
    canvas.pixels.reshape(-1, 3)[index] *= (1 - dark)[:, None].astype(np.float32)


def _annotate(canvas: Canvas, figure: Figure, number: int) -> Person | None:
    """Keypoints and box of a person of whom enough is seen."""
    seen = (canvas.owner >> 5) == number
    area = int(seen.sum())
    if area < 0.02 * figure.scale**2:
        return None
    columns, rows = np.flatnonzero(seen.any(0)), np.flatnonzero(seen.any(1))
    box = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], dtype=np.float64)
    keypoints = np.zeros((17, 3))
    for index, point in enumerate(figure.keypoints(number)):
        x, y = round(point.x, 2), round(point.y, 2)
        if point.unknown or not (0 <= x <= canvas.width - 1 and 0 <= y <= canvas.height - 1):
            continue
        row, column = round(y), round(x)
        around = canvas.owner[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2]
        shown = not point.far and any(part in point.parts for part in around.ravel().tolist())
        keypoints[index] = x, y, 2 if shown else 1
    return Person(keypoints, box, area) if (keypoints[:, 2] == 2).any() else None


def _develop(rng: np.random.Generator, pixels: Any) -> npt.NDArray[np.uint8]:
    """Focus, exposure and noise."""
    if rng.random() < 0.5:
        pixels = cv2.GaussianBlur(pixels, (3, 3), rng.uniform(0.3, 0.9))
    contrast = rng.uniform(0.8, 1.15, 3) if rng.random() < 0.3 else rng.uniform(0.8, 1.15)
    pixels = (pixels - 128) * np.float32(contrast) + np.float32(128 + rng.normal(0, 10))
    grain(rng, pixels)
    return np.asarray(np.clip(pixels, 0, 255), dtype=np.uint8)
