"""Data sets that timm reads by the prefix of their name, such as ``hfds/`` and ``wds/``."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from timm.data import create_dataset

from cycledistill_deit._config import ClassificationConfig
from cycledistill_deit._images import image_mode

_INSTALL = 'pip install "cycledistill[datasets]"'
# Prefix -> the module that reads it, and how to get it.
_NEEDED = {
    "hfds": ("datasets", _INSTALL),
    "hfids": ("datasets", _INSTALL),
    "tfds": ("tensorflow_datasets", "pip install tensorflow tensorflow-datasets"),
    "torch": ("torchvision", _INSTALL),
    "wds": ("webdataset", _INSTALL),
}


def has_prefix(data_dir: str | Path) -> bool:
    """Whether it begins with a prefix of timm's; ``./wds/x`` is a folder."""
    return str(data_dir).partition("/")[0].lower() in _NEEDED and "/" in str(data_dir)


def open_named(config: ClassificationConfig) -> tuple[Any, Any]:
    """Training and validation set without transforms, read by ``timm.data.create_dataset``.

    Args:
        config: The run's; its ``data_dir`` has a prefix.

    Raises:
        FileNotFoundError: A shard is missing.
        ImportError: The library for the prefix is not installed.
        ValueError: timm cannot read it.
    """
    written, _, name = str(config.data_dir).partition("/")
    prefix = written.lower()
    if not name:
        raise ValueError(f"--data-dir {config.data_dir}: expected a name behind {written}/")
    module, install = _NEEDED[prefix]
    if importlib.util.find_spec(module) is None:
        raise ImportError(f"--data-dir {config.data_dir} needs {module}: {install}")
    return _create(config, prefix, True), _create(config, prefix, False)


class _Saved:
    """A split of what ``DatasetDict.save_to_disk`` wrote, which ``load_dataset`` does not read."""

    def __init__(self, folder: str, split: str, input_key: str | None, target_key: str | None):
        from datasets import load_from_disk

        splits: Any = load_from_disk(folder)
        if split not in splits:
            raise ValueError(f"expected one of its splits {', '.join(splits)}")
        self.name = f"{folder} ({split})"
        self.rows = splits[split]
        self.keys = input_key or "image", target_key or "label"
        _check_columns(self.rows.column_names, *self.keys)
        names = getattr(self.rows.features[self.keys[1]], "names", ())
        self.class_to_idx = {name: label for label, name in enumerate(names)}

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        try:
            row = self.rows[index]
        except Exception as error:  # the image is decoded here
            raise ValueError(f"{index} of {self.name} cannot be read: {error}") from error
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
            # Shards and streams are converted later: timm would make greys of 16 bits white.
            input_img_mode=image_mode(config.in_chans) if prefix == "tfds" else "",
            **options,
        )
        if prefix == "hfds":
            _check_columns(_columns(made.reader), made.reader.image_key, made.reader.label_key)
    except (AssertionError, KeyError, OSError, RuntimeError, ValueError) as error:
        raise ValueError(
            f"--data-dir {config.data_dir}, {option} {split}: {error or type(error).__name__}{hint}"
        ) from error
    if prefix == "wds":
        _check_shards(made.reader, option)
    return made


def _columns(reader: Any) -> list[str]:
    """Those of the files; if they have none for the images, the reader has made an empty one."""
    rows, key = reader.dataset, reader.image_key
    is_empty = len(rows) > 0 and rows.data.column(key).null_count == len(rows)
    return [name for name in rows.column_names if not (is_empty and name == key)]


def _check_columns(columns: Sequence[str], image: str, label: str) -> None:
    if not {image, label.partition("/")[0]} <= {*columns}:
        raise ValueError(
            f"expected the columns {image} and {label}, found {', '.join(columns)}; "
            "--input-key and --target-key name others"
        )


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
