"""How a run's images are read and prepared."""

from __future__ import annotations

from typing import Any

import timm
import torch
from PIL import Image
from timm.data import resolve_data_config
from timm.models import PretrainedCfg
from torch import Tensor

from cycledistill.saving._pixels import to_eight_bits
from cycledistill_deit._config import ClassificationConfig


def data_config(config: ClassificationConfig) -> dict[str, Any]:
    """Arguments for ``timm.data.create_transform``: the model's own unless an option is set.

    >>> from cycledistill_deit import PRESETS
    >>> from dataclasses import replace
    >>> vit = replace(PRESETS["paper"], model="vit_tiny_patch16_224")
    >>> data_config(vit)["mean"], data_config(replace(vit, mean=(0.4,)))["mean"]
    ((0.5, 0.5, 0.5), (0.4, 0.4, 0.4))

    Returns:
        ``input_size`` (C, H, W), ``mean`` and ``std`` of each channel after scaling to 0..1,
        ``interpolation``, ``crop_pct`` and ``crop_mode``.
    """
    own = (timm.get_pretrained_cfg(config.model) or PretrainedCfg()).to_dict()
    height, width = own["input_size"][1:]
    if config.image_size is not None:
        height = width = config.image_size
    grey = (0.5,) if config.in_chans == 1 else None  # the model's own are of three channels
    options = {
        "input_size": (config.in_chans, height, width),
        "mean": config.mean or grey,
        "std": config.std or grey,
        "interpolation": config.interpolation,
        "crop_pct": config.crop_fraction,
        "crop_mode": config.crop_mode,
    }
    return resolve_data_config(options, own)


def image_mode(channels: int) -> str:
    """PIL's mode of images with 1 or 3 channels."""
    return "L" if channels == 1 else "RGB"


def to_mode(image: Image.Image, mode: str) -> Image.Image:
    """An image in PIL's ``mode``, "L" or "RGB"; greys of 16 bits keep their upper 8.

    Raises:
        ValueError: It has more bits, or floating-point numbers.
    """
    return to_eight_bits(image).convert(mode)


def open_image(file: Any, mode: str, name: str | None = None) -> Image.Image:
    """Read an image from a path or an open file, in PIL's ``mode``.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It cannot be read; the text has ``name``, or else the path.
    """
    try:
        with Image.open(file) as image:
            return to_mode(image, mode)
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no image {name or file}") from None
    except MemoryError:
        raise
    except Exception as error:  # Pillow's decoders raise errors of any type for damaged data
        raise ValueError(f"{name or file} cannot be read as an image: {error}") from error


def example_input(config: ClassificationConfig) -> Tensor:
    """A black image as the model takes it, `[1, C, S, S]`."""
    return torch.zeros(1, *data_config(config)["input_size"])
