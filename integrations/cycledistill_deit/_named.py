"""Data sets that timm reads by the prefix of their name, such as ``hfds/`` and ``wds/``."""

from __future__ import annotations

import importlib.util
import warnings
from pathlib import Path
from typing import Any, TypeAlias

from timm.data import create_dataset
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from cycledistill.training.processes import is_main_process
from cycledistill_deit._config import ClassificationConfig
from cycledistill_deit._images import image_mode, open_image
from cycledistill_deit._stream import EvaluationStream, TrainingStream, checked_label

_INSTALL = 'pip install "cycledistill[datasets]"'
# Prefix -> the module that reads it, and how to get it.
_NEEDED = {
    "hfds": ("datasets", _INSTALL),
    "hfids": ("datasets", _INSTALL),
    "tfds": ("tensorflow_datasets", "pip install tensorflow tensorflow-datasets"),
    "torch": ("torchvision", _INSTALL),
    "wds": ("webdataset", _INSTALL),
}


_Images: TypeAlias = Dataset[tuple[Tensor, int]]


def has_prefix(data_dir: str | Path) -> bool:
    """Whether it begins with a prefix of timm's; ``./wds/x`` is a folder."""
    return str(data_dir).partition("/")[0].lower() in _NEEDED and "/" in str(data_dir)


def load_named(
    config: ClassificationConfig, train_transform: Any, val_transform: Any
) -> tuple[_Images, _Images, tuple[str, ...]]:
    """Training set, validation set and class names, read by ``timm.data.create_dataset``.

    Args:
        config: The run's; its ``data_dir`` has a prefix.
        train_transform: From a PIL image to the input, for training.
        val_transform: The same for validation.

    Raises:
        FileNotFoundError: A shard is missing.
        ImportError: The library for the prefix is not installed.
        ValueError: timm cannot read it, or its classes or their number are not known.
    """
    name = str(config.data_dir)
    prefix = name.partition("/")[0].lower()
    module, install = _NEEDED[prefix]
    if importlib.util.find_spec(module) is None:
        raise ImportError(f"--data-dir {name} needs {module}: {install}")
    train, val = _create(config, prefix, True), _create(config, prefix, False)
    class_names = _class_names(config, train, val)
    count = len(class_names)
    streamed = isinstance(train, IterableDataset)
    if not streamed:
        mode = image_mode(config.in_chans)
        return (
            IndexedImages(f"{name} (train)", train, train_transform, mode, count),
            IndexedImages(f"{name} (validation)", val, val_transform, mode, count),
            class_names,
        )
    if is_main_process():
        warnings.warn(
            f"--data-dir {name} is read as a stream, for which three things are not promised: that "
            "an epoch has every image exactly once; that steps have the same images with another "
            f"--num-workers ({config.num_workers} here) or number of processes; and that a run "
            "stopped in the middle of an epoch goes on at the same image: it reads the shards of "
            "that epoch from the start again",
            UserWarning,
            stacklevel=1,  # one place, so that a program that loads twice says it once
        )
    return (
        TrainingStream(
            name, train.reader, train_transform, count, config.seed, config.repeated_augmentation
        ),
        EvaluationStream(name, val.reader, val_transform, count),
        class_names,
    )


class IndexedImages(Dataset[tuple[Tensor, int]]):
    """Images by their index; one that cannot be read is an error, not replaced by another one.

    Args:
        name: As the user wrote it, for errors.
        source: A data set of timm, or anything that yields (PIL image, label) by index.
        transform: From a PIL image to the input.
        mode: PIL's mode of the images.
        num_classes: Labels are from 0 to below this.
    """

    def __init__(self, name: str, source: Any, transform: Any, mode: str, num_classes: int) -> None:
        self.name = name
        self.source = source
        self.transform = transform
        self.mode = mode
        self.num_classes = num_classes

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
            image = image.convert(self.mode)
        return self.transform(image), checked_label(label, self.num_classes, where)


class _Saved:
    """A split of what ``DatasetDict.save_to_disk`` wrote, which ``load_dataset`` does not read."""

    def __init__(self, folder: str, split: str, input_key: str | None, target_key: str | None):
        from datasets import load_from_disk

        splits: Any = load_from_disk(folder)
        if split not in splits:
            raise ValueError(f"expected one of its splits {', '.join(splits)}")
        self.rows = splits[split]
        self.keys = input_key or "image", target_key or "label"
        names = getattr(self.rows.features[self.keys[1]], "names", ())
        self.class_to_idx = {name: label for label, name in enumerate(names)}

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        row = self.rows[index]
        return row[self.keys[0]], row[self.keys[1]]


def _create(config: ClassificationConfig, prefix: str, training: bool) -> Any:
    """A data set of timm or torchvision without transforms."""
    name = str(config.data_dir)
    folder = name.partition("/")[2]
    root = None if config.data_root is None else str(config.data_root)
    option, split = ("--train-split", config.train_split or "train")
    if not training:
        option, split = ("--val-split", config.val_split or "validation")
    options: dict[str, Any] = {"input_key": config.input_key, "target_key": config.target_key}
    if prefix == "torch":
        options = {}
        if root is None:
            raise ValueError(f"--data-dir {name}: expected --data-root, the folder of its files")
    hint = ""
    if prefix == "hfids":
        split, _, count = split.partition("|")
        options["num_samples"] = int(count) if count else None
        hint = f"; the number of images can be given behind the split: {option} '{split}|50000'"
    if prefix == "wds":
        name, root = "wds/", folder
        hint = (
            "; expected a file _info.json beside the shards, or their names and the number of "
            f"images, such as {option} '{split}-{{000..127}}.tar|1281167'"
        )
    try:
        if prefix == "hfds" and Path(folder, "dataset_dict.json").is_file():
            return _Saved(folder, split, config.input_key, config.target_key)
        made = create_dataset(
            name,
            root,
            split=split,
            is_training=training,
            batch_size=1,
            input_img_mode=image_mode(config.in_chans),
            **options,
        )
    except (AssertionError, KeyError, OSError, RuntimeError, ValueError) as error:
        raise ValueError(
            f"--data-dir {config.data_dir}, {option} {split}: {error or type(error).__name__}{hint}"
        ) from error
    if prefix == "wds":
        _check_shards(made.reader, option)
    return made


def _check_shards(reader: Any, option: str) -> None:
    if not reader.num_samples:
        raise ValueError(
            f"{option}: expected the number of images behind the names of the shards, such as "
            "'validation-{00..63}.tar|50000'"
        )
    if "://" in reader.root or reader.root.startswith("pipe:"):
        return
    for shard in reader.split_info.filenames:
        path = Path(reader.root, shard)
        if not path.is_file():
            raise FileNotFoundError(f"{option}: there is no shard {path}")


def _class_names(config: ClassificationConfig, train: Any, val: Any) -> tuple[str, ...]:
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
    return names


def _names_in(dataset: Any) -> tuple[str, ...]:
    """The first name of each label, or nothing."""
    known = getattr(getattr(dataset, "reader", dataset), "class_to_idx", None) or {}
    names: dict[int, str] = {}
    for name, label in known.items():
        names.setdefault(label, str(name))
    return tuple(names[label] for label in sorted(names))
