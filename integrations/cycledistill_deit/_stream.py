"""Streams of images, as timm's readers of shards yield them."""

from __future__ import annotations

import copy
import operator
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from cycledistill.training._seeding import mix_seed
from cycledistill.training.processes._communication import place_of_process


@dataclass(eq=False, repr=False)
class TrainingStream(Dataset[tuple[Tensor, int]]):
    """A stream as a data set with indices: any index returns the next image.

    So the trainer can plan its steps as usual, while the reader gives each process and worker its
    own shards. When an epoch begins or is resumed, the shards are shuffled by the seed and the
    epoch and read from the start; a worker that runs out of images before the epoch ends starts
    over. An index that repeats in a row (repeated augmentation) is the same image each time.

    Attributes:
        name: As the user wrote it, for errors.
        reader: An iterable reader of timm that yields (PIL image, label) and has ``num_samples``,
            ``common_seed``, ``dist_rank`` and ``dist_num_replicas``.
        transform: From a PIL image to the input.
        num_classes: Labels are from 0 to below this.
        seed: Of the run.
        repeats: Copies of each image in an epoch.
    """

    name: str
    reader: Any
    transform: Any
    num_classes: int
    seed: int
    repeats: int = 1
    _epoch: int = 0
    _samples: Iterator[tuple[Image.Image, Any]] | None = None
    _last: tuple[int, Image.Image, int] | None = None

    def __len__(self) -> int:
        return int(self.reader.num_samples)

    def set_epoch(self, epoch: int) -> None:
        """Start the shards of an epoch, unless they are being read; copies count as epochs."""
        if epoch // self.repeats != self._epoch:
            self._epoch = epoch // self.repeats
            self._samples = self._last = None

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if self._last is None or self._last[0] != index:
            image, label = self._next()
            self._last = index, image, checked_label(label, self.num_classes, self.name)
        return self.transform(self._last[1]), self._last[2]

    def _next(self) -> tuple[Image.Image, Any]:
        if self._samples is not None:
            for sample in self._samples:
                return sample
        rank, world_size = place_of_process()
        reader = copy.copy(self.reader)  # as it was before it read anything
        reader.common_seed = mix_seed(self.seed, self._epoch) % 2**31
        reader.dist_rank, reader.dist_num_replicas = rank, world_size
        self._samples = _read(reader, self.name)
        for sample in self._samples:
            return sample
        worker = get_worker_info()
        raise ValueError(
            f"{self.name}: no image for process {rank} of {world_size}, worker "
            f"{0 if worker is None else worker.id} of {1 if worker is None else worker.num_workers}"
            ": expected at least one shard for each; lower --num-workers, or make more shards"
        )


@dataclass(eq=False, repr=False)
class EvaluationStream(IterableDataset[tuple[Tensor, int]]):
    """A stream to evaluate on: every image once, each on one process and in one worker.

    Attributes:
        name: As the user wrote it, for errors.
        reader: As for `TrainingStream`, not shuffled.
        transform: From a PIL image to the input.
        num_classes: Labels are from 0 to below this.
    """

    name: str
    reader: Any
    transform: Any
    num_classes: int

    def __len__(self) -> int:
        return int(self.reader.num_samples)

    def __iter__(self) -> Iterator[tuple[Tensor, int]]:
        # Every process reads all: otherwise timm's readers give all processes the same number of
        # images, and so some images twice.
        reader = copy.copy(self.reader)
        reader.dist_rank, reader.dist_num_replicas = 0, 1
        rank, world_size = place_of_process()
        for image, label in islice(_read(reader, self.name), rank, None, world_size):
            yield self.transform(image), checked_label(label, self.num_classes, self.name)


def _read(reader: Any, name: str) -> Iterator[tuple[Image.Image, Any]]:
    try:
        yield from reader
    except KeyError as error:
        raise ValueError(
            f"{name}: found no column {error}; --input-key and --target-key name others"
        ) from error


def checked_label(label: Any, num_classes: int, name: str) -> int:
    """The label as a number.

    Raises:
        ValueError: It is none of the classes.
    """
    number = operator.index(label) if hasattr(label, "__index__") else -1
    if not 0 <= number < num_classes:
        raise ValueError(
            f"{name}: found the label {label!r}, expected 0 to {num_classes - 1} "
            f"({num_classes} classes)"
        )
    return number
