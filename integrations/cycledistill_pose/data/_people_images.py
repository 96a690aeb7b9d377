"""Crops of people from images that are decoded no larger and no more often than needed."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from cycledistill_pose.annotations._values import FloatArray
from cycledistill_pose.data._crop import Rectangle, source_of, warp
from cycledistill_pose.data._crop_cache import CropCache, Region, RegionRequest
from cycledistill_pose.data._people import People
from cycledistill_pose.data._picture import ImageArray, read_rgb
from cycledistill_pose.data._sample import Cropping

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


class PeopleImages:
    """Cuts people out of their images; see `CocoKeypoints` for what the options mean."""

    def __init__(
        self,
        images: ImageStore,
        people: People,
        cropping: Cropping,
        reduced_decoding: bool,
        crop_cache: str | os.PathLike[str] | None,
    ) -> None:
        if crop_cache is not None and images.folder is None:
            raise ValueError("crop_cache needs images in a folder, and they are a mapping")
        self._images = images
        self._people = people
        self._cropping = cropping
        self._reduced_decoding = reduced_decoding
        self._cache = None if crop_cache is None else CropCache(crop_cache)
        self._requests: dict[tuple[int, int], RegionRequest] = {}
        self._shared: dict[tuple[int, int], Region] | None = None

    def crop(self, image_index: int, matrix: FloatArray) -> ImageArray:
        """One crop, RGB `[H, W, 3]`."""
        listed = self._people.images[image_index]
        reducible = self._reduced_decoding and self._images.is_encoded(str(listed.file_name))
        reduce = reduction(matrix) if reducible else 1
        if reduce > 1:
            # Pixel i of the reduced image covers pixels reduce * i ... of the full one.
            offset = (reduce - 1) / 2
            matrix = np.column_stack([matrix[:, :2] * reduce, matrix @ [offset, offset, 1.0]])
        wanted = source_of(matrix, self._cropping.input_size)
        region = None
        if self._cache is not None:
            region = self._cache.read(
                self._request(image_index, reduce), lambda: self._decode(image_index, reduce).pixels
            )
            if not region.part.contains(wanted.clip(*region.image_size)):
                region = None
        region = region or self._decode(image_index, reduce)
        source = wanted.clip(*region.image_size)
        crop = warp(region.pixels, matrix, self._cropping.input_size, source, region.part[:2])
        if crop.shape[2] == 4:  # a region of the cache
            crop = np.asarray(cv2.cvtColor(crop, cv2.COLOR_RGBA2RGB), dtype=np.uint8)
        return crop

    @contextlib.contextmanager
    def sharing(self) -> Iterator[None]:
        """Within the block, an image stays decoded until another one is needed."""
        self._shared = {}
        try:
            yield
        finally:
            self._shared = None

    def _decode(self, image_index: int, reduce: int) -> Region:
        if self._shared is not None and (image_index, reduce) in self._shared:
            return self._shared[image_index, reduce]
        listed = self._people.images[image_index]
        image = self._images.read(str(listed.file_name), listed.size, reduce)
        height, width = image.shape[:2]
        region = Region(image, Rectangle(0, 0, width, height), (width, height))
        if self._shared is not None:
            if not any(index == image_index for index, _ in self._shared):
                self._shared.clear()
            self._shared[image_index, reduce] = region
        return region

    def _request(self, image_index: int, reduce: int) -> RegionRequest:
        """The part of an image that contains all crops of its people."""
        if (image_index, reduce) not in self._requests:
            own = np.flatnonzero(self._people.image_index == image_index)
            reaches = np.array([self._cropping.reach(self._people.person(i)) for i in own.tolist()])
            corners = np.concatenate([reaches[:, :2].min(0), reaches[:, 2:].max(0)]) / reduce
            # As `source_of`, and a pixel for the rim of reduced images.
            left, top = (math.floor(edge) - 2 for edge in corners[:2])
            right, bottom = (math.floor(edge) + 4 for edge in corners[2:])
            folder, listed = self._images.folder, self._people.images[image_index]
            assert folder is not None
            self._requests[image_index, reduce] = RegionRequest(
                str(folder / str(listed.file_name)),
                Rectangle(left, top, right, bottom),
                reduce,
                listed.size,
            )
        return self._requests[image_index, reduce]


def reduction(matrix: FloatArray) -> int:
    """The largest of 1, 2, 4 and 8 by which an image can shrink without losing detail."""
    (a, b, _), (c, d, _) = matrix.tolist()
    shrink = 1 / math.sqrt(abs(a * d - b * c))
    return max(step for step in (1, 2, 4, 8) if step == 1 or step <= shrink)
