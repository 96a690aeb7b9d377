"""A saved pose network for `cycledistill export`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cycledistill.export import Exportable
from cycledistill_pose.codecs._decoder import KeypointDecoder
from cycledistill_pose.data import SyntheticPeople, normalize_images
from cycledistill_pose.data._picture import read_rgb
from cycledistill_pose.prediction._predictor import PosePredictor


def load_exportable(folder: Path, config: dict[str, Any]) -> Exportable | None:
    """Load a folder that `save_plain` wrote; None when it is another kind of folder.

    The example inputs are drawn people; `read_images` crops whole images to the network's input.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: A file is broken.
    """
    if not str(config.get("format", "")).startswith("cycledistill_pose/"):
        return None
    predictor = PosePredictor.from_pretrained(folder)

    def read_images(paths: Sequence[Path]) -> tuple[Tensor, ...]:
        return _inputs([_whole(predictor, path) for path in paths])

    people = SyntheticPeople(3, predictor.input_size)
    return Exportable(
        predictor.plain,
        _inputs([people[index]["image"].numpy() for index in range(3)]),
        "blocks",
        read_images,
        KeypointDecoder(predictor.codec),
    )


def _inputs(crops: Sequence[Any]) -> tuple[Tensor]:
    return (normalize_images(torch.from_numpy(np.stack(crops))).contiguous(),)


def _whole(predictor: PosePredictor, path: Path) -> Any:
    """The whole image as one person, RGB bytes `[h, w, 3]`."""
    pixels = read_rgb(path)
    height, width = pixels.shape[:2]
    return predictor.crop(pixels, [[0, 0, width, height]])[0][0]
