"""The images of a run: class folders, data sets that timm reads, or scikit-learn's digits."""

from __future__ import annotations

import contextlib
import functools
import os
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from timm.data import auto_augment, create_transform, str_to_interp_mode
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, Subset
from torchvision import transforms
from torchvision.datasets.folder import IMG_EXTENSIONS

from cycledistill.saving._files import IMAGES
from cycledistill.training.processes import is_main_process
from cycledistill_deit._config import ClassificationConfig
from cycledistill_deit._images import data_config, image_mode, open_image, to_mode
from cycledistill_deit._named import has_prefix, open_named
from cycledistill_deit._stream import EvaluationStream, TrainingStream, checked_label

NUM_DIGIT_TRAIN = 1297  # of 1,797; the rest is for validation
_ENDINGS = {*IMG_EXTENSIONS, *IMAGES}


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
    prefixed = config.data_dir is not None and has_prefix(config.data_dir)
    for option in ("data_root", "train_split", "val_split", "input_key", "target_key"):
        if not prefixed and (value := getattr(config, option)) is not None:
            raise ValueError(
                f"{option}={value} is for data with a prefix, such as hfds/NAME, got "
                f"data_dir={config.data_dir}"
            )
    if config.data_dir is None:
        train, val = _digits()
    elif prefixed:
        train, val = open_named(config)
    else:
        train, val = _folders(Path(config.data_dir), image_mode(config.in_chans))
    class_names = _class_names(config, train, val)
    to_train, to_val = _transform(config, True), val_transform or _transform(config, False)
    name, count = str(config.data_dir or "digits"), len(class_names)
    mode = image_mode(config.in_chans)
    streamed = isinstance(train, IterableDataset)
    if streamed:
        if config.limit_train is not None:
            raise ValueError(
                f"limit_train={config.limit_train}: expected data with indices, got the stream "
                f"{config.data_dir}; name fewer shards with --train-split"
            )
        _warn_of_stream(config)
        shuffled = config.seed, config.repeated_augmentation
        convert = functools.partial(to_mode, mode=mode)
        to_train, to_val = (transforms.Compose([convert, t]) for t in (to_train, to_val))
        return ClassificationData(
            TrainingStream(name, train.reader, to_train, count, *shuffled),
            EvaluationStream(name, val.reader, to_val, count),
            class_names,
        )
    images: Any = IndexedImages(f"{name} (train)", train, to_train, mode, count)
    if config.limit_train is not None:
        total = len(images)
        if not 1 <= config.limit_train <= total:
            raise ValueError(f"limit_train={config.limit_train} is not within 1 and {total} images")
        chosen = [i * total // config.limit_train for i in range(config.limit_train)]
        images = Subset(images, chosen)
    val = IndexedImages(f"{name} (validation)", val, to_val, mode, count)
    return ClassificationData(images, val, class_names)


@dataclass(eq=False, repr=False)
class IndexedImages(Dataset[tuple[Tensor, int]]):
    """Images by their index; one that cannot be read is an error, not replaced by another one.

    Attributes:
        name: As the user wrote it, for errors.
        source: A data set of timm, or anything that yields (PIL image, label) by index.
        transform: From a PIL image to the input.
        mode: PIL's mode of the images.
        num_classes: Labels are from 0 to below this.
    """

    name: str
    source: Any
    transform: Any
    mode: str
    num_classes: int

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        where = f"{index} of {self.name}"
        if hasattr(self.source, "reader"):
            file, label = self.source.reader[index]
            with file:
                image = open_image(file, self.mode, where)
        else:  # torchvision's, or saved to disk
            image, label = self.source[index]
            image = to_mode(image, self.mode)
        return self.transform(image), checked_label(label, self.num_classes, where)


def _folders(root: Path, mode: str) -> tuple[Any, Any]:
    for folder in (root, root / "train", root / "val"):
        if not folder.is_dir():
            raise FileNotFoundError(
                f"--data-dir {root}: {folder} is no folder; expected train/CLASS/*.jpg and "
                "val/CLASS/*.jpg (ImageNet's layout)"
            )
    try:
        return _ClassFolders(root / "train", mode), _ClassFolders(root / "val", mode)
    except (FileNotFoundError, ValueError) as error:
        raise ValueError(f"--data-dir {root}: {error}") from error


class _ClassFolders:
    """Images in folders of their classes.

    Hidden folders and files, such as those of Jupyter and macOS, are left out. Links are followed,
    unless they lead to a folder around them, or one that the class has already.
    """

    def __init__(self, root: Path, mode: str) -> None:
        self.mode = mode
        self.samples: list[tuple[str, int]] = []
        self.class_to_idx: dict[str, int] = {}
        around = root.resolve()
        others: Counter[str] = Counter()
        for top in sorted(root.iterdir(), key=lambda path: path.name):
            if not top.is_dir() or top.name[0] == "." or around.is_relative_to(top.resolve()):
                continue
            label = self.class_to_idx[top.name] = len(self.class_to_idx)
            images, seen = [], {str(around), os.path.realpath(top)}
            for folder, subfolders, files in os.walk(top, followlinks=True):
                places = {name: os.path.realpath(os.path.join(folder, name)) for name in subfolders}
                subfolders[:] = [
                    name for name in sorted(places) if name[0] != "." and places[name] not in seen
                ]
                seen |= {places[name] for name in subfolders}
                for name in (name for name in files if name[0] != "."):
                    ending = os.path.splitext(name)[1].lower()
                    if ending in _ENDINGS:
                        images.append((folder, name))
                    else:
                        others[ending or "without ending"] += 1
            if not images:
                raise FileNotFoundError(f"{top} has no images")
            self.samples += [(os.path.join(*path), label) for path in sorted(images)]
        if not self.samples:
            raise FileNotFoundError(f"{root} has no class folders")
        if others and is_main_process():
            counts = ", ".join(f"{count} {ending}" for ending, count in others.most_common())
            warnings.warn(f"{root}: files that are no images are left out: {counts}", stacklevel=1)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        path, label = self.samples[index]
        return open_image(path, self.mode), label


def _digits() -> tuple[Any, Any]:
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = (digits.images * (255 / 16)).astype(np.uint8)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0)).tolist()
    samples = [(Image.fromarray(images[index]), digits.target[index]) for index in order]
    return samples[:NUM_DIGIT_TRAIN], samples[NUM_DIGIT_TRAIN:]


def _class_names(config: ClassificationConfig, train: Any, val: Any) -> tuple[str, ...]:
    if config.data_dir is None:
        if config.num_classes not in (None, 10):
            raise ValueError(f"--num-classes {config.num_classes}: there are 10 digits")
        return tuple(map(str, range(10)))
    names, others = _names_in(train), _names_in(val)
    if names != others:
        raise ValueError(
            f"--data-dir {config.data_dir}: its splits have other classes, {len(names)} for "
            f"training and {len(others)} for validation; only one of them has "
            f"{', '.join(sorted(set(names) ^ set(others))[:5])}"
        )
    if not names:
        if config.num_classes is None:
            raise ValueError(
                f"--data-dir {config.data_dir} does not name its classes: expected --num-classes"
            )
        names = tuple(str(label) for label in range(config.num_classes))
    if config.num_classes not in (None, len(names)):
        raise ValueError(
            f"--num-classes {config.num_classes}: {config.data_dir} names {len(names)} classes"
        )
    if len(names) < 2:
        raise ValueError(f"--data-dir {config.data_dir}: expected two or more classes, got {names}")
    return names


def _names_in(dataset: Any) -> tuple[str, ...]:
    """The first name of each label, or nothing."""
    known = getattr(getattr(dataset, "reader", dataset), "class_to_idx", None) or {}
    names: dict[int, str] = {}
    for name, label in known.items():
        names.setdefault(label, str(name))
    return tuple(names[label] for label in sorted(names))


def _warn_of_stream(config: ClassificationConfig) -> None:
    if is_main_process():
        warnings.warn(
            f"--data-dir {config.data_dir} is read as a stream, for which three things are not "
            "promised: that an epoch has every image exactly once; that steps have the same images "
            f"with another --num-workers ({config.num_workers} here) or number of processes; and "
            "that a run stopped in the middle of an epoch goes on at the same image: it reads the "
            "shards of that epoch from the start again",
            UserWarning,
            stacklevel=1,  # one place, so that a program that loads twice says it once
        )


def _posterize(image: Image.Image, bits_to_keep: int, **_: Any) -> Image.Image:
    """As in timm; 0 bits, which Pillow 13 refuses, make black, as in Pillow before."""
    if not bits_to_keep:
        return image.point([0] * 256 * len(image.getbands()))
    kept: Image.Image = auto_augment.posterize(image, bits_to_keep)
    return kept


@contextlib.contextmanager
def _posterizing() -> Iterator[None]:
    """Let timm take `_posterize` for what it makes, and only for that."""
    operations = auto_augment.NAME_TO_OP
    timms = {name: op for name, op in operations.items() if name.startswith("Posterize")}
    operations.update(dict.fromkeys(timms, _posterize))
    try:
        yield
    finally:
        operations.update(timms)


def _transform(config: ClassificationConfig, training: bool) -> Any:
    prepared = data_config(config)
    try:
        with _posterizing():
            made = create_transform(
                **prepared,
                is_training=training,
                hflip=config.flip,
                color_jitter=config.color_jitter,
                auto_augment=config.auto_augment,
                re_prob=config.random_erasing if training else 0.0,
                re_mode="pixel",
            )
    except AssertionError as error:
        raise ValueError(f"auto_augment={config.auto_augment}: {error}") from error
    if training and config.crop_padding is not None:
        size = prepared["input_size"][1:]
        how = str_to_interp_mode(prepared["interpolation"])
        resize = transforms.Resize(size if size[0] != size[1] else size[0], how)
        made.transforms[:1] = [resize, transforms.RandomCrop(size, config.crop_padding)]
    return made
