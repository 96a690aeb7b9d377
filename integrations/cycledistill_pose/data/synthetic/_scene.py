"""A whole picture with people, and their labels."""

from __future__ import annotations

from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from cycledistill_pose.data.synthetic._canvas import Canvas
from cycledistill_pose.data.synthetic._figure import Figure, draw_colour

NOBODY = 0


class Person(NamedTuple):
    """The labels of one person in a picture.

    Attributes:
        keypoints: `[17, 3]` x, y (px) and COCO's visibility: 0 not labelled (out of the picture,
            or a face seen from behind), 1 labelled but hidden, 2 seen.
        box_xyxy: `[4]` px, around the visible part.
        area: Visible px.
    """

    keypoints: npt.NDArray[np.float64]
    box_xyxy: npt.NDArray[np.float64]
    area: int


class Scene(NamedTuple):
    """A picture `[H, W, 3]` (RGB, uint8) and its people, the most visible one first."""

    image: npt.NDArray[np.uint8]
    people: tuple[Person, ...]


def draw_scene(rng: np.random.Generator, width: int, height: int, easy: bool = False) -> Scene:
    """Draw one to four people in front of something, and sometimes behind something."""
    while True:
        light = np.array([rng.normal(0, 0.6), -abs(rng.normal(0.6, 0.3)), 1.0])
        backdrop = _draw_backdrop(rng, width, height)
        figures = _draw_figures(rng, width, height, easy)
        for figure in figures:
            _drop_shadow(backdrop, figure, rng.uniform(0.15, 0.5))
        canvas = Canvas(backdrop, light / np.linalg.norm(light), float(rng.uniform(0.35, 0.6)))
        if not easy:
            _draw_things(rng, canvas, figures[-1])
        for number, figure in enumerate(figures, start=1):
            figure.paint(canvas, number)
        found = [_annotate(canvas, figure, number) for number, figure in enumerate(figures, 1)]
        people = sorted((person for person in found if person), key=lambda person: -person.area)
        if people:
            return Scene(_develop(rng, canvas.pixels), tuple(people))


def _draw_figures(rng: np.random.Generator, width: int, height: int, easy: bool) -> list[Figure]:
    """People from the farthest, who are smaller and higher up, to the nearest."""
    count = 1 if easy else int(rng.choice(4, p=[0.58, 0.25, 0.12, 0.05])) + 1
    close = not easy and rng.random() < 0.18
    nearest = rng.uniform(1.1, 1.9) if close else rng.uniform(0.62, 0.98)
    sizes = [*np.sort(rng.uniform(0.35, 0.9, count - 1)), nearest]
    figures = []
    for number, size in enumerate(np.array(sizes) * height):
        figure = Figure(rng, size, easy)
        left, _, right, bottom = figure.bounds
        room = max(width - (right - left), 0.3 * width)
        middle = width / 2 + rng.uniform(-0.5, 0.5) * room
        floor = height * rng.uniform(0.9, 1.08) - max(height - size, 0) * 0.4
        if size > height:  # the picture shows the upper part, seldom the lower one
            floor = height * rng.uniform(0.0, 0.08) + (size if rng.random() < 0.85 else height)
        depth = 10.0 * height * (count - number)
        figure.move(middle - (left + right) / 2, floor - bottom, depth)
        figures.append(figure)
    return figures


def _annotate(canvas: Canvas, figure: Figure, number: int) -> Person | None:
    """Keypoints and box of a person, if enough of them is visible."""
    seen = canvas.owner == number
    area = int(seen.sum())
    keypoints = figure.keypoints(canvas, number)
    if area < 0.02 * figure.scale**2 or not (keypoints[:, 2] == 2).any():
        return None
    columns, rows = np.flatnonzero(seen.any(0)), np.flatnonzero(seen.any(1))
    box = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], dtype=np.float64)
    return Person(keypoints, box, area)


def _draw_backdrop(rng: np.random.Generator, width: int, height: int) -> Any:
    """A wall over a floor, with blotches and clutter, mostly out of focus."""
    picture = np.empty((height, width, 3), dtype=np.float32)
    horizon = int(height * rng.uniform(0.45, 1.3))
    picture[:] = _muted(rng, 40, 225)
    picture[horizon:] = _muted(rng, 30, 210)
    top, bottom = rng.uniform(0.8, 1.2, 2).tolist()
    picture *= np.linspace(top, bottom, height, dtype=np.float32)[:, None, None]
    for cell, strength in ((48, rng.uniform(4, 22)), (10, rng.uniform(2, 12))):
        coarse = rng.standard_normal((height // cell + 2, width // cell + 2, 4), dtype=np.float32)
        coarse = np.float32(strength) * (np.float32(0.4) * coarse[..., :3] + coarse[..., 3:])
        picture += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    for _ in range(int(rng.integers(2, 11))):
        colour = tuple(float(value) for value in _muted(rng, 20, 235, 0.75))
        x, y = (int(v) for v in rng.uniform(0, 1, 2) * (width, height))
        a, b = (int(v) for v in rng.uniform(0.03, 0.28, 2) * height)
        kind = rng.integers(4)
        if kind == 0:
            cv2.rectangle(picture, (x - a, y - b), (x + a, y + b), colour, -1)
        elif kind == 1:
            cv2.ellipse(picture, (x, y), (a, b), float(rng.uniform(0, 180)), 0, 360, colour, -1)
        elif kind == 2:
            cv2.line(picture, (x, y), (x + 2 * a - b, y + 2 * b), colour, int(rng.integers(1, 10)))
        else:
            corners = np.array([x, y]) + rng.normal(0, 0.12 * height, (5, 2))
            cv2.fillPoly(picture, [corners.astype(np.int32)], colour)
    if rng.random() < 0.6:
        picture = np.asarray(cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.6, 2.0)))
    return picture


def _muted(rng: np.random.Generator, low: float, high: float, strength: float = 0.4) -> Any:
    """A colour; at strength 0 a grey."""
    grey = rng.uniform(low, high)
    return grey + strength * (rng.uniform(low, high, 3) - grey)


def _draw_things(rng: np.random.Generator, canvas: Canvas, figure: Figure) -> None:
    """Lit capsules that belong to no person: some behind everyone, sometimes one in front."""
    size = min(canvas.height, canvas.width)

    def thing(start: Any, end: Any, radius: float, depth: float, flat: float = 1.0) -> None:
        colour, radii = draw_colour(rng), [radius, radius * rng.uniform(0.7, 1.3)]
        canvas.capsule((*start, depth), (*end, depth), radii, colour, NOBODY, flat)

    for _ in range(int(rng.integers(0, 4))):
        start = rng.uniform(0, 1, 2) * (canvas.width, canvas.height)
        end = start + rng.uniform(-0.5, 0.5, 2) * size
        thing(start, end, rng.uniform(0.012, 0.05) * size, 100.0 * canvas.height)
    if rng.random() < 0.35:
        left, top, right, bottom = figure.bounds
        wide, tall = right - left, bottom - top
        middle = left + wide * rng.uniform(-0.1, 1.1), top + tall * rng.uniform(0.25, 1.05)
        reach = np.array([(0, 2 * tall), (0.4 * wide, 0.1 * tall), (0, 0)])[rng.integers(3)]
        reach = reach + rng.normal(0, 0.1, 2) * reach[::-1]  # a pole, a board or a ball
        radius = rng.uniform(0.03, 0.08) * tall * (1 if reach.any() else 2)
        thing(middle - reach, middle + reach, radius, -100.0 * canvas.height, flat=2.0)


def _drop_shadow(picture: Any, figure: Figure, strength: float) -> None:
    """A soft dark patch under the feet."""
    left, _, right, bottom = figure.bounds
    axes = (max(int(0.45 * (right - left)), 1), max(int(0.04 * figure.scale), 1))
    centre = (int((left + right) / 2), int(bottom - 0.02 * figure.scale))
    mask = np.zeros(picture.shape[:2], dtype=np.float32)
    cv2.ellipse(mask, centre, axes, 0, 0, 360, strength, -1)
    picture *= 1 - cv2.GaussianBlur(mask, (0, 0), max(axes[1] / 2, 0.5))[..., None]


def _develop(rng: np.random.Generator, pixels: Any) -> npt.NDArray[np.uint8]:
    """Focus, exposure and noise."""
    if rng.random() < 0.5:
        pixels = cv2.GaussianBlur(pixels, (3, 3), rng.uniform(0.3, 0.9))
    contrast = rng.uniform(0.8, 1.15) + rng.normal(0, 0.04, 3)
    pixels = (pixels - 128) * np.float32(contrast) + np.float32(128 + rng.normal(0, 10))
    noise = rng.standard_normal(pixels.shape, dtype=np.float32)
    pixels += np.float32(abs(rng.normal(0, 5))) * noise
    return np.asarray(np.clip(pixels, 0, 255), dtype=np.uint8)
