"""A saved pose network for `cycledistill export`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from cycledistill.export import Exportable
from cycledistill_pose.checkpoints._plain import PlainCheckpoint, load_plain
from cycledistill_pose.codecs import HeatmapCodec, RegressionCodec
from cycledistill_pose.codecs._decoder import KeypointDecoder
from cycledistill_pose.data import SyntheticPeople, crop_matrix, normalize_images
from cycledistill_pose.models import TokenReg


def load_exportable(folder: Path, config: dict[str, Any]) -> Exportable | None:
    """Load a folder that `save_plain` wrote; None when it is another kind of folder.

    The example inputs are drawn people; `read_images` crops whole images to the network's input.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: A file is broken.
    """
    if not str(config.get("format", "")).startswith("cycledistill_pose/"):
        return None
    checkpoint = load_plain(folder)
    size = checkpoint.model.input_size

    def read_images(paths: Sequence[Path]) -> tuple[Tensor, ...]:
        images = np.stack([_read_image(path, size) for path in paths])
        return (normalize_images(torch.from_numpy(images)).contiguous(),)

    people = SyntheticPeople(3, size)
    drawn = torch.stack([people[index]["image"] for index in range(3)])
    return Exportable(
        checkpoint.model,
        (normalize_images(drawn).contiguous(),),
        "blocks",
        read_images,
        KeypointDecoder(_codec(checkpoint)),
    )


def _codec(checkpoint: PlainCheckpoint) -> HeatmapCodec | RegressionCodec:
    model = checkpoint.model
    if isinstance(model, TokenReg):
        return RegressionCodec(model.input_size)
    options = dict(checkpoint.codec)
    sigma = options.pop("sigma", 2.0)
    options.setdefault("blur_kernel", 2 * int(2.67 * sigma) + 1)
    return HeatmapCodec(model.input_size, model.heatmap_size, sigma, **options)


def _read_image(path: Path, size: tuple[int, int]) -> Any:
    """The whole image in the middle of the input, as RGB bytes `[H, W, 3]`."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no image {path}")
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise ValueError(f"{path} is not an image that OpenCV can read")
    box = np.array([0.0, 0.0, image.shape[1], image.shape[0]])
    matrix = crop_matrix(box, size, padding=1.0)
    return cv2.cvtColor(cv2.warpAffine(image, matrix, size), cv2.COLOR_BGR2RGB)
