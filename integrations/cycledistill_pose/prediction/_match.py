"""Which image, or frame of a video, a box belongs to."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from cycledistill_pose.annotations import Box, BoxFile

_LAST_NUMBER = re.compile(r"([0-9]+)[^0-9]*$")


def number_images(names: Sequence[str]) -> list[int]:
    """Ids of images: the numbers that they are called by, as in COCO, or else 1, 2, ...

    >>> number_images(["000000000139.jpg", "000000000285.jpg"]), number_images(["a.png", "7.png"])
    ([139, 285], [1, 2])
    """
    numbers = [_number(name) for name in names]
    if None not in numbers and len(set(numbers)) == len(numbers):
        return [number for number in numbers if number is not None]
    return list(range(1, len(names) + 1))


class ImageMatcher:
    """Finds a box's image by the path that its file gives, and by number where it gives none.

    Args:
        names: paths of the images, relative to ``folder``.
        folder: where they are.
        boxes: the file.

    Raises:
        ValueError: when the file lists an image twice, or a name could be of several.
    """

    def __init__(self, names: Sequence[str], folder: Path, boxes: BoxFile) -> None:
        self._title = boxes.title
        self._listed = boxes.image_names
        self._exact = {_parts(name): name for name in names}
        where = Path(os.path.abspath(folder)).parts
        self._paths: dict[str, list[tuple[tuple[str, ...], str]]] = defaultdict(list)
        for parts, name in self._exact.items():
            self._paths[parts[-1]].append(((*where, *parts), name))
        self._numbers: dict[int, list[str]] = defaultdict(list)
        for name in names:
            number = _number(name)
            if number is not None:
                self._numbers[number].append(name)
        if sum(map(len, self._numbers.values())) < len(names):
            self._numbers.clear()  # a number among names says nothing
        self._owners = self._find_owners()

    def find(self, box: Box) -> str | None:
        """The name of its image, or None where that is another one.

        Raises:
            ValueError: when it could be several.
        """
        if box.file_name is not None:
            return self._by_path(box.file_name)
        if box.image_id is not None and self._listed.get(box.image_id) is not None:
            return self._owners.get(box.image_id)
        if isinstance(box.image_id, str):
            return self._by_path(box.image_id)
        if self._listed and box.image_id not in self._listed:
            return None
        return self._only(self._numbers.get(box.image_id or 0, []), f"image_id {box.image_id}")

    def _find_owners(self) -> dict[int | str, str]:
        """The image of each id that the file lists with a name."""
        claims: dict[str, list[tuple[bool, int | str]]] = defaultdict(list)
        for number, file_name in self._listed.items():
            if file_name is not None and (name := self._by_path(file_name)) is not None:
                claims[name].append((_parts(file_name) in self._exact, number))
        owners = {}
        for name, claimed in claims.items():
            exact = [claim for claim in claimed if claim[0]] or claimed
            if len(exact) > 1:
                raise ValueError(
                    f"{self._title} lists {name} {len(exact)} times, with the ids "
                    f"{', '.join(str(number) for _, number in exact)}; expected it once"
                )
            owners[exact[0][1]] = name
        return owners

    def _by_path(self, file_name: str) -> str | None:
        parts = _parts(file_name)
        if not parts:
            return None
        if parts in self._exact:
            return self._exact[parts]
        found = [name for full, name in self._paths[parts[-1]] if full[-len(parts) :] == parts]
        return self._only(found, f"file_name {file_name!r}")

    def _only(self, found: Sequence[str], what: str) -> str | None:
        if len(found) > 1:
            raise ValueError(
                f"{self._title}: {what} could be any of {', '.join(found[:5])}; expected a "
                "file_name with the folders that tell them apart"
            )
        return found[0] if found else None


class FrameMatcher:
    """Finds a box's frame by number, counted from where the file says.

    Args:
        names: of the frames, in order.
        boxes: the file. It counts from 0 where it has a frame 0, from its first image where it
            lists as many images in a row as there are frames, and else from 1.
        first: number of the first frame, where that is known.
    """

    def __init__(self, names: Sequence[str], boxes: BoxFile, first: int | None) -> None:
        self._names = names
        self._listed = self._numbers_of(boxes)
        numbers = sorted(set(self._listed.values()))
        all_listed = numbers == [number + min(numbers, default=0) for number in range(len(names))]
        if not self._listed:
            numbers = sorted({n for n in map(self._number_of, boxes.boxes) if n is not None})
        from_file = numbers[0] if all_listed else 0 if 0 in numbers else 1
        self.first = from_file if first is None else first

    def find(self, box: Box) -> str | None:
        """The name of its frame, or None where the video has no such frame."""
        number = self._number_of(box)
        place = -1 if number is None else number - self.first
        return self._names[place] if 0 <= place < len(self._names) else None

    def _number_of(self, box: Box) -> int | None:
        if box.image_id in self._listed:
            return self._listed[box.image_id]
        if isinstance(box.image_id, int):
            return None if self._listed else box.image_id
        return _last_number(box.file_name or str(box.image_id))

    def _numbers_of(self, boxes: BoxFile) -> dict[int | str | None, int]:
        """Frame of each listed image: the number in its name, if these are frames, or its id."""
        named = {i: _last_number(name or "") for i, name in boxes.image_names.items()}
        numbers = [number for number in named.values() if number is not None]
        frames = len(set(numbers)) == len(named) and max(numbers, default=0) <= len(self._names)
        chosen = named if frames else {i: i if isinstance(i, int) else None for i in named}
        return {i: number for i, number in chosen.items() if number is not None}


def _number(name: str) -> int | None:
    stem = Path(name).stem
    return int(stem) if stem.isascii() and stem.isdigit() else None


def _last_number(name: str) -> int | None:
    found = _LAST_NUMBER.search(PurePosixPath(name).stem)
    return int(found[1]) if found else None


def _parts(name: str) -> tuple[str, ...]:
    """Folders and file of a path, on any system."""
    path = PurePosixPath(name.replace("\\", "/"))
    return tuple(part for part in path.parts if part not in ("/", "."))
