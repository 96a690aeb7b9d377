"""Named keypoints of a person, or of any other object."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from cycledistill_pose.skeletons._sides import find_flip_pairs

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
        name: Name of the skeleton in messages.
        keypoint_names: K names, in the order of the annotation files.
        flip_pairs: Pairs of keypoints that trade places when an image is mirrored. Without any,
            there is no mirroring, neither in training nor in the flip test.
        sigmas: K fall-off constants of the object keypoint similarity (COCO's ``sigmas``,
            already divided by 10).
        limbs: Pairs of keypoints that are joined by a line in drawings.
        upper_body: Keypoints of the upper half, for half-body augmentation, which does nothing if
            either half is empty.
        category_id: Category id of the annotation file that they were read from; goes into results.
        category: Name of the category there, or None if unknown. Comparisons of skeletons ignore
            these two.

    Raises:
        ValueError: An index is out of range, a keypoint is in two flip pairs, names repeat,
            or the number of sigmas is not the number of names.
    """

    name: str
    keypoint_names: tuple[str, ...]
    flip_pairs: tuple[tuple[int, int], ...]
    sigmas: tuple[float, ...]
    limbs: tuple[tuple[int, int], ...]
    upper_body: tuple[int, ...]
    category_id: int = field(default=1, compare=False)
    category: str | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        title, count = f"skeleton {self.name!r}", len(self.keypoint_names)
        if count == 0:
            raise ValueError(f"{title}: keypoint_names is empty")
        repeated = sorted({n for n in self.keypoint_names if self.keypoint_names.count(n) > 1})
        if repeated:
            raise ValueError(f"{title}: keypoint_names repeat {repeated}")
        if len(self.sigmas) != count:
            raise ValueError(f"{title}: {len(self.sigmas)} sigmas for {count} keypoint names")
        if not all(0 < sigma < math.inf for sigma in self.sigmas):
            raise ValueError(f"{title}: sigmas: expected finite numbers above 0, got {self.sigmas}")
        paired = [index for pair in self.flip_pairs for index in pair]
        joined = [index for pair in self.limbs for index in pair]
        used = {"flip_pairs": paired, "limbs": joined, "upper_body": self.upper_body}
        for name, indices in used.items():
            wrong = [index for index in indices if not 0 <= index < count]
            if wrong:
                raise ValueError(
                    f"{title}: {name} names keypoints {wrong}, "
                    f"but there are {count} (0 to {count - 1})"
                )
        if len(set(paired)) != len(paired):
            raise ValueError(f"{title}: a keypoint is in two flip_pairs: {self.flip_pairs}")

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

    def with_flip_pairs(self, pairs: Sequence[Sequence[str]]) -> Skeleton:
        """The same keypoints with other flip pairs, given by name.

        >>> from cycledistill_pose.skeletons import Skeleton
        >>> fish = Skeleton.from_coco_category({"name": "fish", "keypoints": ["a1", "a2", "tail"]})
        >>> fish.with_flip_pairs([("a1", "a2")]).flip_pairs
        ((0, 1),)

        Raises:
            ValueError: A pair is not of two names, or a name is not among the keypoints.
        """
        indices = []
        for pair in pairs:
            if len(pair) != 2 or isinstance(pair, str):
                raise ValueError(f"flip pairs: expected pairs of keypoint names, got {pair!r}")
            unknown = [name for name in pair if name not in self.keypoint_names]
            if unknown:
                raise ValueError(
                    f"flip pairs name the keypoint {unknown[0]!r}, expected one of "
                    f"{', '.join(self.keypoint_names)}"
                )
            first, second = (self.keypoint_names.index(name) for name in pair)
            indices.append((first, second))
        return replace(self, flip_pairs=tuple(indices))

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

        Flip pairs are names that differ in ``left``/``right`` (or ``l``/``r``) alone, unless the
        category has ``flip_pairs`` of its own: pairs of names, or of numbers that count from 1.
        The limbs are the category's ``skeleton``, which counts from 1 too. The lower half of the
        body is every name with hip, knee, ankle, leg or foot in it. A category with exactly the
        names of COCO or CrowdPose gives that skeleton.

        Args:
            category: With ``keypoints`` (names) and maybe ``skeleton``, ``flip_pairs``, ``id``,
                ``name``, ``sigmas``.
            sigmas: K values; otherwise the category's own ``sigmas``, otherwise those of the
                COCO and CrowdPose keypoints of the same name, otherwise ``default_sigma``.
            default_sigma: For all other keypoints.

        Raises:
            ValueError: The category has no keypoint names, or its limbs or flip pairs do not
                fit them.
        """
        title = str(category.get("name", "object"))
        listed = category.get("keypoints") or ()
        names = () if isinstance(listed, str) else tuple(str(name) for name in listed)
        if not names:
            raise ValueError(
                f"category {title!r} (id {category.get('id')}) has no keypoint names: its "
                '"keypoints" must list them, such as ["nose", "left_eye", "right_eye"]; '
                "or pass a Skeleton"
            )
        given = sigmas if sigmas is not None else category.get("sigmas")
        known = tuple(_ALIASES.get(name, name) for name in names)
        skeleton = next((s for s in (COCO, CROWDPOSE) if s.keypoint_names == known), None)
        if skeleton is None:
            limbs = _from_one(category.get("skeleton"), title, "skeleton", names)
            upper = tuple(i for i, name in enumerate(names) if not _LOWER_BODY.search(name.lower()))
            scales = tuple(_SIGMAS.get(name, default_sigma) for name in known)
            pairs = find_flip_pairs(names)
            skeleton = cls(title, names, pairs, scales, limbs, upper)
        changes: dict[str, Any] = {}
        if given is not None:
            try:
                changes["sigmas"] = tuple(float(scale) for scale in given)
            except (TypeError, ValueError):
                raise ValueError(
                    f"category {title!r}: its sigmas: expected {len(names)} numbers, got {given!r}"
                ) from None
        if category.get("flip_pairs") is not None:
            pairs = category["flip_pairs"]
            nested = isinstance(pairs, Sequence) and all(isinstance(p, Sequence) for p in pairs)
            if nested and all(isinstance(side, str) for pair in pairs for side in pair):
                changes["flip_pairs"] = skeleton.with_flip_pairs(pairs).flip_pairs
            else:
                changes["flip_pairs"] = _from_one(pairs, title, "flip_pairs", names)
        if category.get("id") is not None and int(category["id"]) != skeleton.category_id:
            changes["category_id"] = int(category["id"])
        if "name" in category and title != skeleton.category:
            changes["category"] = title
        return replace(skeleton, **changes) if changes else skeleton


def _from_one(
    pairs: Any, title: str, key: str, names: tuple[str, ...]
) -> tuple[tuple[int, int], ...]:
    """Pairs of keypoints that count from 1, counted from 0."""
    try:
        indices = tuple((int(a) - 1, int(b) - 1) for a, b in pairs or ())
    except (TypeError, ValueError):
        raise ValueError(
            f"category {title!r}: its {key}: expected pairs of numbers from 1, got {pairs!r}"
        ) from None
    wrong = [(a + 1, b + 1) for a, b in indices if not (0 <= a < len(names) > b >= 0)]
    if wrong:
        raise ValueError(
            f"category {title!r}: its {key} joins {wrong}, but its {len(names)} keypoints "
            f"count from 1 to {len(names)}"
        )
    return indices


def _sides(*parts: str) -> tuple[str, ...]:
    return tuple(f"{side}_{part}" for part in parts for side in ("left", "right"))


_BODY = _sides("shoulder", "elbow", "wrist", "hip", "knee", "ankle")
_BODY_SIGMAS = (
    *(0.079, 0.079, 0.072, 0.072, 0.062, 0.062),
    *(0.107, 0.107, 0.087, 0.087, 0.089, 0.089),
)

COCO = Skeleton(
    name="coco",
    keypoint_names=("nose", *_sides("eye", "ear"), *_BODY),
    flip_pairs=tuple((left, left + 1) for left in range(1, 17, 2)),
    sigmas=(0.026, 0.025, 0.025, 0.035, 0.035, *_BODY_SIGMAS),
    limbs=(
        *((0, 1), (0, 2), (1, 2), (1, 3), (2, 4), (3, 5), (4, 6)),
        *((5, 6), (5, 7), (7, 9), (6, 8), (8, 10)),
        *((5, 11), (6, 12), (11, 12), (11, 13), (13, 15), (12, 14), (14, 16)),
    ),
    upper_body=tuple(range(11)),
    category="person",
)

CROWDPOSE = Skeleton(
    name="crowdpose",
    keypoint_names=(*_BODY, "top_head", "neck"),
    flip_pairs=tuple((left, left + 1) for left in range(0, 12, 2)),
    sigmas=(*_BODY_SIGMAS, 0.079, 0.079),
    limbs=(
        *((12, 13), (13, 0), (13, 1), (0, 1), (0, 2), (2, 4), (1, 3), (3, 5)),
        *((0, 6), (1, 7), (6, 7), (6, 8), (8, 10), (7, 9), (9, 11)),
    ),
    upper_body=(0, 1, 2, 3, 4, 5, 12, 13),
    category="person",
)

# CrowdPose's own files say "head" where others say "top_head".
_ALIASES = {"head": "top_head", "head_top": "top_head"}
# COCO's wins where both have a keypoint.
_SIGMAS = {
    name: sigma
    for skeleton in (CROWDPOSE, COCO)
    for name, sigma in zip(skeleton.keypoint_names, skeleton.sigmas, strict=True)
}
