"""Images by name, from a folder or from memory."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cycledistill_pose.data._picture import ImageArray, read_rgb

ImageSource = str | os.PathLike[str] | Mapping[str, Any]


class ImageStore:
    """Images by file name: files of a folder, or values of a mapping.

    Values of a mapping are encoded bytes or whatever else `read_rgb` takes.
    """

    def __init__(self, source: ImageSource) -> None:
        self._mapping = source if isinstance(source, Mapping) else None
        self.folder = None if isinstance(source, Mapping) else Path(source)
        if self.folder is not None and not self.folder.is_dir():
            raise FileNotFoundError(f"images: there is no folder {self.folder}")

    def missing(self, names: list[str]) -> list[str]:
        """Those of the names that are not there; looks into each folder once."""
        if self._mapping is not None:
            return [name for name in names if name not in self._mapping]
        assert self.folder is not None
        present: dict[Path, set[str]] = {}
        missing = []
        for name in names:
            path = self.folder / name
            if path.parent not in present:
                there = path.parent.is_dir()
                present[path.parent] = set(os.listdir(path.parent)) if there else set()
            if path.name not in present[path.parent]:
                missing.append(name)
        return missing

    def is_encoded(self, name: str) -> bool:
        """Whether the image has yet to be decoded (an array or a Pillow image has not)."""
        kinds = (bytes, bytearray, memoryview, str, os.PathLike)
        return self._mapping is None or isinstance(self._mapping.get(name), kinds)

    def read(self, name: str, size: tuple[int, int] | None = None, reduce: int = 1) -> ImageArray:
        """An image as RGB `[H / reduce, W / reduce, 3]`; see `read_rgb`.

        Args:
            name: file name or key.
            size: (width, height) that the annotations claim; None where they say nothing.
            reduce: 1, 2, 4 or 8; decode at this part of the resolution.

        Raises:
            FileNotFoundError: when there is no such image.
            BadImageError: when it cannot be decoded or is not of the claimed size.
        """
        if self._mapping is None:
            assert self.folder is not None
            return read_rgb(self.folder / name, size, reduce)
        if name not in self._mapping:
            raise FileNotFoundError(f"there is no image {name!r} in the mapping given")
        return read_rgb(self._mapping[name], size, reduce, f"image {name!r}")
