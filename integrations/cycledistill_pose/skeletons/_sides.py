"""Flip pairs from the names of keypoints."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Sequence

_OPPOSITE = {"left": "right", "l": "r", "right": "left", "r": "l"}
# A side glued to a word differs from a separate one: only the same form makes a pair.
_OPPOSITE |= {f"{one}+": f"{other}+" for one, other in _OPPOSITE.items()}
# Between "wing" and "Left", "L" and "Eye".
_CAPITAL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_LEFT_OR_RIGHT = re.compile(r"(left|right)(.+)|(.+)(left|right)")
# An l or r glued to a word is a side only before body parts that come in pairs: "lear" and
# "rear" are ears where both are there, "lamp" and "ramp" are not "amp".
_PART = (
    "eye|ear|eyebrow|brow|cheek|nostril|mouth|lip|jaw|shoulder|clavicle|arm|upperarm|forearm|elbow|"
    "wrist|hand|palm|thumb|index|finger|pinky|chest|breast|hip|thigh|leg|upperleg|lowerleg|knee|"
    "calf|shin|ankle|heel|foot|toe|bigtoe|smalltoe|wing|paw|hoof|fin|horn|antler|antenna|gill|claw"
)
_L_OR_R = re.compile(rf"([lr])((?:{_PART})s?)")


def find_flip_pairs(names: Sequence[str]) -> tuple[tuple[int, int], ...]:
    """Pairs of names that differ only in left and right.

    >>> find_flip_pairs(["nose", "left_eye", "right_eye", "LEar", "REar", "lpaw", "rpaw"])
    ((1, 2), (3, 4), (5, 6))
    >>> find_flip_pairs(["lamp", "ramp", "1", "2", "eye_left", "ear_right"])
    ()

    A side is the word left, right, l or r (also in `wingLeft` and `LEye`), left or right glued to
    a word (`lefteye`, `left1`), or l or r glued to a body part (`leye`, `Lshoulder`). A name
    without a partner, or with two, is in no pair.
    """
    places: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for index, name in enumerate(names):
        places[_words(name)].append(index)
    pairs = []
    for words, found in places.items():
        mirrored = tuple(_OPPOSITE.get(word, word) for word in words)
        others = places.get(mirrored, [])
        if mirrored != words and len(found) == len(others) == 1:
            side = next(word for word in words if word in _OPPOSITE)
            if side.startswith("l"):
                pairs.append((found[0], others[0]))
    return tuple(pairs)


def _words(name: str) -> tuple[str, ...]:
    """Words of a name in any script; glued sides are split off unless there is a separate one."""
    spaced = _CAPITAL.sub("_", unicodedata.normalize("NFKC", name)).casefold()
    words = [word for word in re.split(r"[\W_]+", spaced) if word]
    for glued in (_LEFT_OR_RIGHT, _L_OR_R):
        if not any(word in _OPPOSITE for word in words):
            words = [part for word in words for part in _parts(word, glued)]
    return tuple(words)


def _parts(word: str, glued: re.Pattern[str]) -> list[str]:
    found = glued.fullmatch(word)
    if not found:
        return [word]
    return [f"{part}+" if part in _OPPOSITE else part for part in found.groups() if part]
