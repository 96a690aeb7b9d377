"""What a person (or any other object) with named keypoints is made of."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_LOWER_BODY = re.compile(r"hip|knee|ankle|foot|toe|heel|leg|thigh|shin")


@dataclass(frozen=True)
class Skeleton:
    """Names, symmetry and scales of a set of keypoints; all indices count from 0.

    >>> from cycledistill_pose.skeletons import COCO
    >>> COCO.num_keypoints, COCO.keypoint_names[5:7]
    (17, ('left_shoulder', 'right_shoulder'))
    >>> COCO.flip_indices[:5]  # the nose stays, the eyes and ears change places
    (0, 2, 1, 4, 3)
    >>> COCO.sigmas[0]
    0.026

    Attributes:
        name: what the skeleton is called in messages.
        keypoint_names: K names, in the order of the annotation files.
        flip_pairs: pairs of keypoints that change places when an image is mirrored.
        sigmas: K fall-off constants of the object keypoint similarity (COCO's ``sigmas``,
            already divided by 10).
        limbs: pairs of keypoints that are joined by a line when drawn.
        upper_body: keypoints of the upper half. Half-body augmentation cuts people along this
            split; it leaves people whole where either half is empty.

    Raises:
        ValueError: when an index is out of range, a keypoint is in two flip pairs, names repeat,
            or the number of sigmas is not the number of names.
    """

    name: str
    keypoint_names: tuple[str, ...]
    flip_pairs: tuple[tuple[int, int], ...]
    sigmas: tuple[float, ...]
    limbs: tuple[tuple[int, int], ...]
    upper_body: tuple[int, ...]

    def __post_init__(self) -> None:
        count = len(self.keypoint_names)
        if count == 0:
            raise ValueError(f"skeleton {self.name!r}: keypoint_names is empty")
        repeated = sorted({n for n in self.keypoint_names if self.keypoint_names.count(n) > 1})
        if repeated:
            raise ValueError(f"skeleton {self.name!r}: keypoint_names repeat {repeated}")
        if len(self.sigmas) != count:
            raise ValueError(
                f"skeleton {self.name!r}: {len(self.sigmas)} sigmas for {count} keypoint names"
            )
        if not all(sigma > 0 for sigma in self.sigmas):
            raise ValueError(f"skeleton {self.name!r}: sigmas must be above 0, got {self.sigmas}")
        used = {
            "flip_pairs": [i for pair in self.flip_pairs for i in pair],
            "limbs": [i for pair in self.limbs for i in pair],
            "upper_body": list(self.upper_body),
        }
        for field, indices in used.items():
            wrong = [i for i in indices if not 0 <= i < count]
            if wrong:
                raise ValueError(
                    f"skeleton {self.name!r}: {field} names keypoints {wrong}, "
                    f"but there are {count} (0 to {count - 1})"
                )
        if len(set(used["flip_pairs"])) != len(used["flip_pairs"]):
            raise ValueError(
                f"skeleton {self.name!r}: a keypoint stands in two flip_pairs: {self.flip_pairs}"
            )

    @property
    def num_keypoints(self) -> int:
        """The number of keypoints K."""
        return len(self.keypoint_names)

    @property
    def flip_indices(self) -> tuple[int, ...]:
        """K indices: where each keypoint of a mirrored image comes from."""
        indices = list(range(self.num_keypoints))
        for left, right in self.flip_pairs:
            indices[left], indices[right] = right, left
        return tuple(indices)

    @property
    def lower_body(self) -> tuple[int, ...]:
        """The keypoints that are not in ``upper_body``."""
        return tuple(i for i in range(self.num_keypoints) if i not in self.upper_body)

    @classmethod
    def from_coco_category(
        cls,
        category: Mapping[str, Any],
        sigmas: Sequence[float] | None = None,
        default_sigma: float = 0.05,
    ) -> Skeleton:
        """Read a skeleton from an entry of a COCO file's ``categories``.

        >>> from cycledistill_pose.skeletons import Skeleton
        >>> bird = Skeleton.from_coco_category(
        ...     {
        ...         "name": "bird",
        ...         "keypoints": ["beak", "left_wing", "right_wing"],
        ...         "skeleton": [[1, 2], [1, 3]],
        ...     }
        ... )
        >>> bird.flip_pairs, bird.limbs, bird.sigmas
        (((1, 2),), ((0, 1), (0, 2)), (0.05, 0.05, 0.05))

        Flip pairs are names that differ in ``left``/``right`` (or ``l``/``r``) alone. The limbs
        are the category's ``skeleton``, which counts from 1. The lower half of the body is every
        name that speaks of hip, knee, ankle, leg or foot. A category with the very names of
        COCO or CrowdPose gives that skeleton.

        Args:
            category: with ``keypoints`` (names) and maybe ``skeleton``, ``name``, ``sigmas``.
            sigmas: K values; otherwise the category's own ``sigmas``, otherwise those of the
                COCO and CrowdPose keypoints of the same name, otherwise ``default_sigma``.
            default_sigma: for keypoints that nobody has measured.

        Raises:
            ValueError: when the category has no keypoint names or its limbs do not fit them.
        """
        from cycledistill_pose.skeletons._known import known_sigma, known_skeleton

        title = str(category.get("name", "object"))
        names = tuple(str(name) for name in category.get("keypoints") or ())
        if not names:
            raise ValueError(
                f"category {title!r} (id {category.get('id')}) has no keypoint names: its "
                '"keypoints" must list them, such as ["nose", "left_eye", "right_eye"]; '
                "or hand a Skeleton over"
            )
        given = sigmas if sigmas is not None else category.get("sigmas")
        known = known_skeleton(names)
        if known is not None:
            if given is None:
                return known
            scales = tuple(float(s) for s in given)
            return cls(known.name, names, known.flip_pairs, scales, known.limbs, known.upper_body)
        scales = (
            tuple(float(s) for s in given)
            if given is not None
            else tuple(known_sigma(name) or default_sigma for name in names)
        )
        limbs = tuple((int(a) - 1, int(b) - 1) for a, b in category.get("skeleton") or ())
        wrong = [(a + 1, b + 1) for a, b in limbs if not (0 <= a < len(names) > b >= 0)]
        if wrong:
            raise ValueError(
                f"category {title!r}: its skeleton joins {wrong}, but its {len(names)} keypoints "
                f"count from 1 to {len(names)}"
            )
        upper = tuple(i for i, name in enumerate(names) if not _LOWER_BODY.search(name.lower()))
        return cls(title, names, _find_flip_pairs(names), scales, limbs, upper)


def _words(name: str) -> list[str]:
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)
    return re.split(r"[^a-z0-9]+", spaced.lower())


def _find_flip_pairs(names: tuple[str, ...]) -> tuple[tuple[int, int], ...]:
    """Pairs of names that become each other when left is read as right."""
    opposite = {"left": "right", "l": "r"}
    index = {tuple(_words(name)): i for i, name in enumerate(names)}
    pairs = []
    for words, left in index.items():
        mirrored = tuple(opposite.get(word, word) for word in words)
        right = index.get(mirrored)
        if mirrored != words and right is not None:
            pairs.append((left, right))
    return tuple(pairs)
