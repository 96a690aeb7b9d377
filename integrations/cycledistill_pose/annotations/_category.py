"""The category whose keypoints are read, and what is assumed about them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from cycledistill_pose.annotations._values import as_integer
from cycledistill_pose.skeletons import Skeleton


@dataclass(frozen=True)
class Category:
    """What is annotated.

    Attributes:
        id: Id of the category in its file.
        name: Name of the category in its file.
        skeleton: Its keypoints, the caller's or else the file's; None where neither names them.
        own: Its keypoints by the file alone; None where that does not name them.
        sigmas: K fall-off constants that stand in the file, or None.
        has_flip_pairs: Whether the file has flip pairs.
    """

    id: int
    name: str
    skeleton: Skeleton | None
    own: Skeleton | None = None
    sigmas: tuple[float, ...] | None = None
    has_flip_pairs: bool = False


def read_category(
    entries: Sequence[Mapping[str, Any]],
    title: str,
    name: str | None = None,
    fallback: Skeleton | None = None,
) -> Category:
    """The category of this name, or the only one with keypoints, or the skeleton's.

    ``fallback`` are its keypoints if the file names none.
    """
    if not entries and name is None:
        return Category(1, fallback.name if fallback else "object", fallback)
    ids = [as_integer(entry.get("id"), f"{title}: category ids") for entry in entries]
    entry = _pick(entries, title, name, fallback)
    found = Category(ids[entries.index(entry)], str(entry.get("name", "object")), fallback)
    if ids.count(found.id) > 1:
        raise ValueError(
            f"{title}: category {found.name!r} has the id {found.id} of another one; expected ids "
            "that tell their annotations apart"
        )
    if entry.get("keypoints"):
        try:
            own = Skeleton.from_coco_category(entry)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{title}: {error}") from error
        found = replace(
            found,
            skeleton=own,
            own=own,
            sigmas=None if entry.get("sigmas") is None else own.sigmas,
            has_flip_pairs=entry.get("flip_pairs") is not None,
        )
    return found


def check_same_keypoints(first: tuple[str, Skeleton], second: tuple[str, Skeleton]) -> None:
    """Check that two files, or a network and a file, have the same keypoints.

    Args:
        first: Name for the message, and skeleton.
        second: The same of the other one.

    Raises:
        ValueError: The number or a name differs; shows the first that does.
    """
    (title, one), (other_title, other) = first, second
    if one.num_keypoints != other.num_keypoints:
        raise ValueError(
            f"{other_title}: {other.num_keypoints} keypoints of {other.name!r}, expected the "
            f"{one.num_keypoints} of {one.name!r} as in {title}"
        )
    names = zip(one.keypoint_names, other.keypoint_names, strict=True)
    for number, (expected, found) in enumerate(names, start=1):
        if expected != found:
            raise ValueError(
                f"keypoint {number} of {other_title} is {found!r}, expected {expected!r} as in "
                f"{title}: the keypoints must be the same, in the same order"
            )


def _pick(
    entries: Sequence[Mapping[str, Any]], title: str, name: str | None, skeleton: Skeleton | None
) -> Mapping[str, Any]:
    names = [str(entry.get("name")) for entry in entries]
    if name is not None:
        chosen = [e for e, own in zip(entries, names, strict=True) if own == name]
        if not chosen:
            raise ValueError(f"{title} has no category {name!r}, only {names}")
    else:
        chosen = [entry for entry in entries if entry.get("keypoints")] or list(entries)
        if len(chosen) > 1 and skeleton is not None and skeleton.category is not None:
            same = [entry for entry in chosen if str(entry.get("name")) == skeleton.category]
            chosen = same or chosen
    if len(chosen) != 1:
        found = [str(entry.get("name")) for entry in chosen]
        raise ValueError(
            f"{title}: say which category to read (category=..., --category NAME), expected one "
            f"with keypoints, got {len(chosen)}: {found}"
        )
    return chosen[0]
