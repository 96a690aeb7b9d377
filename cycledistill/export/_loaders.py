"""Loading the model in a folder with whatever package knows its kind."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from torch import Tensor, nn

from cycledistill.saving._folder import read_config

LOADERS = "cycledistill.loaders"
Outputs = dict[str, Tensor]
Judge = Callable[[Outputs, Outputs], str]


class Exportable(NamedTuple):
    """A loaded model and what its export needs.

    Attributes:
        model: The plain model, in eval mode.
        example_inputs: Its inputs, batch first.
        blocks: Path of its stack of blocks; None to find it.
        read_images: Makes ``example_inputs`` from image files.
        decode: Module that decodes the model's output, or None.
        input_names: Names of the inputs.
        metadata: Metadata of the file, see `export_model`.
        judge: Describes the change from the first outputs to the second.
        read_annotated: Makes ``example_inputs`` from an annotation file, its folder of images and
            the name of a category or None, and a judge that knows the ground truth; None if there
            is no such format.
        num_cycles: Cycles that it was trained to be used with.
    """

    model: nn.Module
    example_inputs: tuple[Tensor, ...]
    blocks: str | None
    read_images: Callable[[Sequence[Path]], tuple[Tensor, ...]]
    decode: nn.Module | None = None
    input_names: tuple[str, ...] = ("images",)
    metadata: Mapping[str, str] = {}
    judge: Judge | None = None
    read_annotated: Callable[[Path, Path, str | None], tuple[tuple[Tensor, ...], Judge]] | None = (
        None
    )
    num_cycles: int = 1


def load_exportable(folder: Path) -> Exportable:
    """Load a saved model with the first loader that knows its kind.

    A loader is an entry point of the group `cycledistill.loaders`: a function of the folder and
    the content of its ``config.json`` that returns an `Exportable`, or None if the folder is of
    another kind.

    Raises:
        FileNotFoundError: There is no such folder, or no ``config.json`` in it.
        ValueError: No loader knows the folder, or its files are broken.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}")
    config = read_config(folder, "model")
    tried, missing = [], []
    for entry in sorted(importlib.metadata.entry_points(group=LOADERS), key=lambda e: e.name):
        try:
            loader = entry.load()
        except ImportError as error:
            missing.append(f'{entry.name} ({error}; pip install "cycledistill[{entry.name}]")')
            continue
        tried.append(entry.name)
        loaded: Exportable | None = loader(folder, config)
        if loaded is not None:
            return loaded
    raise ValueError(
        f"{folder} is of a kind that no loader knows; tried: {', '.join(tried) or 'none'}"
        + (f"; could not be loaded: {', '.join(missing)}" if missing else "")
    )
