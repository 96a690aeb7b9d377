"""The images of a run: class folders, data sets that timm reads, or scikit-learn's digits."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from timm.data import create_transform, str_to_interp_mode
from torch import Tensor
from torch.utils.data import Dataset, Subset
from torchvision import transforms
from torchvision.datasets import ImageFolder

from cycledistill_deit._config import ClassificationConfig
from cycledistill_deit._images import data_config, image_mode, open_image
from cycledistill_deit._named import IndexedImages, has_prefix, load_named
from cycledistill_deit._stream import TrainingStream

NUM_DIGIT_TRAIN = 1297  # of 1,797; the rest is for validation


class ClassificationData(NamedTuple):
    """Training and validation sets of (image `[C, S, S]` float, label) pairs.

    Attributes:
        train: Has a length and indices; a stream returns its next image for any index.
        val: Has a length and indices, or is an ``IterableDataset`` with a length.
        class_names: A name for each label.
    """

    train: Dataset[tuple[Tensor, int]]
    val: Dataset[tuple[Tensor, int]]
    class_names: tuple[str, ...]


def load_data(config: ClassificationConfig, val_transform: Any = None) -> ClassificationData:
    """The data of a config.

    Args:
        config: The run's.
        val_transform: From a PIL image to the input, for validation; ``None`` takes the config's.

    Raises:
        FileNotFoundError: The folder, or its train/ or val/, or a shard is missing.
        ImportError: The library for a prefix is not installed.
        ValueError: A class folder has no image, train/ and val/ have other classes, or timm cannot
            read what is named.
    """
    transforms = _transform(config, True), val_transform or _transform(config, False)
    if config.data_dir is None:
        data = _digits(*transforms)
    elif has_prefix(config.data_dir):
        data = ClassificationData(*load_named(config, *transforms))
    else:
        data = _folders(Path(config.data_dir), image_mode(config.in_chans), *transforms)
    if config.limit_train is not None:
        if isinstance(data.train, TrainingStream):
            raise ValueError(
                f"limit_train={config.limit_train}: expected data with indices, got the stream "
                f"{config.data_dir}; name fewer shards with --train-split"
            )
        total = len(data.train)  # type: ignore[arg-type]
        if not 1 <= config.limit_train <= total:
            raise ValueError(f"limit_train={config.limit_train} is not within 1 and {total} images")
        chosen = [i * total // config.limit_train for i in range(config.limit_train)]
        data = data._replace(train=Subset(data.train, chosen))
    return data


def _folders(root: Path, mode: str, train_transform: Any, val_transform: Any) -> ClassificationData:
    for folder in (root, root / "train", root / "val"):
        if not folder.is_dir():
            raise FileNotFoundError(
                f"--data-dir {root}: {folder} is no folder; expected train/CLASS/*.jpg and "
                "val/CLASS/*.jpg (ImageNet's layout)"
            )
    opened = functools.partial(open_image, mode=mode)
    try:
        train = ImageFolder(str(root / "train"), train_transform, loader=opened)
        val = ImageFolder(str(root / "val"), val_transform, loader=opened)
    except FileNotFoundError as error:
        raise ValueError(f"--data-dir {root}: {error}") from error
    if train.classes != val.classes:
        differing = sorted(set(train.classes) ^ set(val.classes))
        raise ValueError(
            f"--data-dir {root}: train/ has {len(train.classes)} classes, val/ has "
            f"{len(val.classes)}; only one of them has {', '.join(differing[:5])}"
        )
    return ClassificationData(train, val, tuple(train.classes))


def _digits(train_transform: Any, val_transform: Any) -> ClassificationData:
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = (digits.images * (255 / 16)).astype(np.uint8)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0)).tolist()
    samples = [(Image.fromarray(images[index]), digits.target[index]) for index in order]
    parts = samples[:NUM_DIGIT_TRAIN], samples[NUM_DIGIT_TRAIN:]
    train, val = (
        IndexedImages("digits", part, transform, "L", 10)
        for part, transform in zip(parts, (train_transform, val_transform), strict=True)
    )
    return ClassificationData(train, val, tuple(map(str, digits.target_names)))


def _transform(config: ClassificationConfig, training: bool) -> Any:
    prepared = data_config(config)
    made = create_transform(
        **prepared,
        is_training=training,
        hflip=config.flip,
        color_jitter=config.color_jitter,
        auto_augment=config.auto_augment,
        re_prob=config.random_erasing if training else 0.0,
        re_mode="pixel",
    )
    if training and config.crop_padding is not None:
        size = prepared["input_size"][1:]
        how = str_to_interp_mode(prepared["interpolation"])
        resize = transforms.Resize(size if size[0] != size[1] else size[0], how)
        made.transforms[:1] = [resize, transforms.RandomCrop(size, config.crop_padding)]
    return made
