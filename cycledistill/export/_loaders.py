"""Finding what can load a folder, without knowing what that is."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from cycledistill.saving._missing import missing_file

LOADERS = "cycledistill.loaders"
Outputs = dict[str, Tensor]
Judge = Callable[[Outputs, Outputs], str]


class Exportable(NamedTuple):
    """A loaded model and what its export needs.

    Attributes:
        model: The plain model, in eval mode.
        example_inputs: What it is called with, the batch first.
        blocks: Path of its stack of blocks, or None where it is found.
        read_images: Makes ``example_inputs`` of image files.
        decode: Module that decodes what the model returns, or None where there is none.
        input_names: Of the inputs.
        metadata: Goes into the file, see `export_model`.
        judge: Says in words what it means that outputs (the first) have become others.
        read_annotated: Makes ``example_inputs`` of an annotation file and its folder of images,
            and a judge that knows the right answers; None where there is no such thing.
    """

    model: nn.Module
    example_inputs: tuple[Tensor, ...]
    blocks: str | None
    read_images: Callable[[Sequence[Path]], tuple[Tensor, ...]]
    decode: nn.Module | None = None
    input_names: tuple[str, ...] = ("images",)
    metadata: Mapping[str, str] = {}
    judge: Judge | None = None
    read_annotated: Callable[[Path, Path], tuple[tuple[Tensor, ...], Judge]] | None = None


def load_exportable(folder: Path) -> Exportable:
    """Load a saved model with the first loader that knows its kind.

    A loader is an entry point of the group `cycledistill.loaders`: a function of the folder and
    of what its ``config.json`` says, which returns an `Exportable`, or None when the folder is
    not of its kind.

    Raises:
        FileNotFoundError: There is no such folder, or no ``config.json`` in it.
        ValueError: No loader knows the folder, or its files are broken.
    """
    config = _read_config(folder)
    asked, missing = [], []
    for entry in sorted(importlib.metadata.entry_points(group=LOADERS), key=lambda e: e.name):
        try:
            loader = entry.load()
        except ImportError as error:
            missing.append(f'{entry.name} ({error}; pip install "cycledistill[{entry.name}]")')
            continue
        asked.append(entry.name)
        loaded: Exportable | None = loader(folder, config)
        if loaded is not None:
            return loaded
    raise ValueError(
        f"{folder} is of a kind that no loader knows; asked: {', '.join(asked) or 'none'}"
        + (f"; could not be asked: {', '.join(missing)}" if missing else "")
    )


def _read_config(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}")
    path = folder / "config.json"
    if not path.is_file():
        raise missing_file(folder, path.name, "model")
    try:
        config = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path} must hold a JSON object, found {type(config).__name__}")
    return config
