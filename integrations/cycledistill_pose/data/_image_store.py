"""Images by name, which are decoded no larger and no more often than needed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cycledistill_pose.annotations import ListedImage
from cycledistill_pose.data._crop_cache import CropCache
from cycledistill_pose.data._picture import ImageArray, read_rgb

ImageSource = str | os.PathLike[str] | Mapping[str, Any]


class ImageStore:
    """Images by file name: files of a folder, or values of a mapping.

    Values of a mapping are encoded bytes or whatever else `read_rgb` takes.

    Args:
        source: The folder or the mapping.
        crop_cache: Folder that stores decoded images; only for images in a folder.
    """

    def __init__(
        self, source: ImageSource, crop_cache: str | os.PathLike[str] | None = None
    ) -> None:
        self._mapping = source if isinstance(source, Mapping) else None
        self.folder = None if isinstance(source, Mapping) else Path(source)
        if self.folder is not None and not self.folder.is_dir():
            raise FileNotFoundError(f"images: there is no folder {self.folder}")
        if crop_cache is not None and self.folder is None:
            raise ValueError("crop_cache needs images in a folder, and they are a mapping")
        self._cache = None if crop_cache is None else CropCache(crop_cache)

    def missing(self, names: list[str]) -> list[str]:
        """The names that are missing; each folder is listed once."""
        if self._mapping is not None:
            return [name for name in names if name not in self._mapping]
        assert self.folder is not None
        paths = {name: self.folder / name for name in names}
        folders = {path.parent for path in paths.values()}
        present = {folder: set(os.listdir(folder)) for folder in folders if folder.is_dir()}
        return [
            name for name, path in paths.items() if path.name not in present.get(path.parent, ())
        ]

    def is_encoded(self, name: str) -> bool:
        """Whether the image must be decoded, unlike an array or a Pillow image."""
        kinds = (bytes, bytearray, memoryview, str, os.PathLike)
        return self._mapping is None or isinstance(self._mapping.get(name), kinds)

    def read(self, name: str, size: tuple[int, int] | None = None, reduce: int = 1) -> ImageArray:
        """An image as RGB `[H / reduce, W / reduce, 3]`; see `read_rgb`."""
        if self._mapping is None:
            assert self.folder is not None
            return read_rgb(self.folder / name, size, reduce)
        if name not in self._mapping:
            raise FileNotFoundError(f"there is no image {name!r} in the mapping given")
        return read_rgb(self._mapping[name], size, reduce, f"image {name!r}")

    def pixels(self, image: ListedImage, reduce: int = 1) -> ImageArray:
        """The same, or from the cache with a fourth channel that means nothing."""
        name = str(image.file_name)
        if self._cache is None:
            return self.read(name, image.size, reduce)
        assert self.folder is not None
        key = (str(self.folder / name), reduce, image.size)
        return self._cache.read(key, lambda: self.read(name, image.size, reduce))
