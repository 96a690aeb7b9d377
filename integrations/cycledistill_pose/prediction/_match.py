"""Which image, or frame of a video, a box belongs to."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from cycledistill_pose.annotations import Box, BoxFile

IdAndPath = tuple[int | str | None, str | None]
_LAST_NUMBER = re.compile(r"([0-9]+)[^0-9]*$")


def number_images(names: Sequence[str]) -> list[int]:
    """Ids of images: the numbers in their names, as in COCO, or else 1, 2, ...

    >>> number_images(["000000000139.jpg", "000000000285.jpg"]), number_images(["a.png", "7.png"])
    ([139, 285], [1, 2])
    """
    numbers = [_number(name) for name in names]
    if None not in numbers and len(set(numbers)) == len(numbers):
        return [number for number in numbers if number is not None]
    return list(range(1, len(names) + 1))


class ImageMatcher:
    """Finds a box's image by the path in its file, or by number if there is no path."""

    def __init__(self, names: Sequence[str], folder: Path, file: BoxFile) -> None:
        self._file = file
        where = Path(os.path.abspath(folder)).parts
        self._exact = {_parts(name): name for name in names}
        self._endings: dict[str, list[tuple[str, ...]]] = defaultdict(list)
        for parts in self._exact:
            self._endings[parts[-1]].append((*where, *parts))
        self._start = len(where)
        self._numbers: dict[int | str | None, list[str]] = defaultdict(list)
        if all(_number(name) is not None for name in names):  # else numbers are not ids
            for name in names:
                self._numbers[_number(name)].append(name)
        self._images = self._match({(box.image_id, self._path(box)) for box in file.boxes})

    def find(self, box: Box) -> str | None:
        """The name of its image, or None if it is not among them."""
        return self._images.get((box.image_id, self._path(box)))

    def _path(self, box: Box) -> str | None:
        """The path that the file gives, which may be the id."""
        by_id = box.image_id if isinstance(box.image_id, str) else None
        return self._file.path_of(box) or by_id

    def _match(self, wanted: set[IdAndPath]) -> dict[IdAndPath, str]:
        """The image of each id and path."""
        claims: dict[str, list[IdAndPath]] = defaultdict(list)
        for number, path in sorted(wanted, key=repr):
            found = self._by_number(number) if path is None else self._by_path(path)
            if len(found) > 1:
                what = f"image_id {number}" if path is None else f"file_name {path!r}"
                raise ValueError(
                    f"{self._file.title}: {what} could be any of {', '.join(found[:5])}; expected "
                    "a file_name with the folders that tell them apart"
                )
            for name in found:
                claims[name].append((number, path))
        images: dict[IdAndPath, str] = {}
        for name, claimed in claims.items():
            exact = [claim for claim in claimed if _parts(claim[1] or "") in self._exact] or claimed
            listed = exact if self._file.images else {_parts(path or "") for _, path in exact}
            if len(listed) > 1:
                found_in = ", ".join(f"{path!r} (id {number})" for number, path in exact[:5])
                raise ValueError(f"{self._file.title} has {name} several times: {found_in}")
            images |= dict.fromkeys(exact, name)
        return images

    def _by_number(self, number: int | str | None) -> list[str]:
        listed = self._file.images
        return [] if listed and number not in listed else self._numbers.get(number, [])

    def _by_path(self, path: str) -> list[str]:
        parts = _parts(path)
        if not parts or parts in self._exact:
            return [self._exact[parts]] if parts else []
        fulls = [full for full in self._endings[parts[-1]] if full[-len(parts) :] == parts]
        return [self._exact[full[self._start :]] for full in fulls]


class FrameMatcher:
    """Finds a box's frame by number.

    The file counts from 0 if it has a frame 0, from its first image if it lists as many
    consecutive images as there are frames, otherwise from 1; or from ``first``.
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
        """The name of its frame, or None if the video has no such frame."""
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
        named = {i: _last_number(image.file_name or "") for i, image in boxes.images.items()}
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
