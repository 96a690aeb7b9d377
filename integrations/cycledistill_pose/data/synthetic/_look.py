"""What a person wears: colours and patterns."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cycledistill_pose.data.synthetic._pick import pick

Colour = npt.NDArray[np.float32]

_SKIN = [
    (255, 219, 190),
    (241, 194, 160),
    (224, 172, 130),
    (186, 132, 94),
    (132, 88, 60),
    (104, 70, 50),
]
_HAIR = [
    (28, 22, 20),
    (60, 40, 28),
    (110, 74, 42),
    (176, 132, 74),
    (216, 190, 130),
    (150, 62, 34),
    (165, 165, 165),
]


@dataclass(frozen=True)
class Material:
    """Two colours and how they alternate; ``period`` in body heights."""

    first: Colour
    second: Colour
    pattern: str = "plain"
    period: float = 0.04


@dataclass(frozen=True)
class Look:
    """One person's skin, hair and clothes."""

    skin: Material
    hair: Material
    hair_length: float
    hat: Material | None
    beard: bool
    glasses: bool
    top: Material
    sleeve: float
    open_collar: bool
    zipped: bool
    print: Material | None
    backpack: Material | None
    bottom: Material
    leg: float
    skirt: float
    shoes: Material

    @staticmethod
    def draw(rng: np.random.Generator) -> Look:
        """Random, dressed for anything."""
        skin = np.array(_SKIN[rng.integers(len(_SKIN))], dtype=np.float32) * rng.uniform(0.92, 1.05)
        hair = np.array(_HAIR[rng.integers(len(_HAIR))], dtype=np.float32) * rng.uniform(0.8, 1.15)
        if rng.random() < 0.05:
            hair = _colour(rng)
        skirt = float(rng.uniform(0.45, 1.1)) if rng.random() < 0.15 else 0.0
        dress = skirt > 0 and rng.random() < 0.5
        top = draw_material(rng)
        return Look(
            skin=Material(skin, skin * 0.9),
            hair=Material(hair, hair * 0.86, "lengthwise", 0.014),
            hair_length=pick(rng, {-1.0: 0.06, 0.0: 0.54, 0.5: 0.15, 1.0: 0.25}),
            hat=draw_material(rng, 0.8) if rng.random() < 0.18 else None,
            beard=bool(rng.random() < 0.15),
            glasses=bool(rng.random() < 0.12),
            top=top,
            sleeve=pick(rng, {0.0: 0.12, 0.6: 0.4, 1.7: 0.1, 2.0: 0.38}),
            open_collar=bool(rng.random() < 0.7),
            zipped=bool(rng.random() < 0.35),
            print=draw_material(rng, 1.0) if rng.random() < 0.4 else None,
            backpack=draw_material(rng, 0.9) if rng.random() < 0.12 else None,
            bottom=top if dress else draw_material(rng, 0.7, dark=rng.random() < 0.6),
            leg=0.0 if skirt else pick(rng, {0.7: 0.25, 1.4: 0.08, 2.0: 0.67}),
            skirt=skirt,
            shoes=draw_material(rng, 1.0, dark=rng.random() < 0.5),
        )


def _colour(rng: np.random.Generator, dark: Any = False) -> Colour:
    saturation = rng.beta(1.3, 2.0)
    value = rng.uniform(0.12, 0.5) if dark else rng.uniform(0.35, 1.0)
    red, green, blue = colorsys.hsv_to_rgb(rng.random(), saturation, value)
    return np.array([255 * red, 255 * green, 255 * blue], dtype=np.float32)


def draw_material(rng: np.random.Generator, plain: float = 0.6, dark: Any = False) -> Material:
    """A cloth; ``plain`` is the chance that it has no pattern."""
    first = _colour(rng, dark)
    if rng.random() < plain:
        return Material(first, first * 0.85)
    second = _colour(rng)
    second = first + (second - first) * np.float32(rng.uniform(0.4, 1.0))
    if abs(second - first).sum() < 90:
        second = first + np.where(first > 128, np.float32(-70), np.float32(70))
    pattern = pick(rng, {"rings": 0.4, "lengthwise": 0.2, "checks": 0.25, "halves": 0.15})
    return Material(first, second, pattern, float(rng.uniform(0.03, 0.08)))
