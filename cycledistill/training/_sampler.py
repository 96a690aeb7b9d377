"""Which samples make up which step: an order that knows nothing of processes and workers."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from cycledistill._loading import SampleKey
from cycledistill.training._config import TrainConfig
from cycledistill.training._seeding import mix_seed


class LocalMicrobatch(NamedTuple):
    """What one process computes of one microbatch.

    Attributes:
        keys: Its samples, never empty.
        is_filler: The process has no sample of its own in this microbatch. It computes the first
            one with weight 0, to keep step with the others.
    """

    keys: tuple[SampleKey, ...]
    is_filler: bool


class GlobalOrder:
    """The samples of every step of a run, from the seed alone.

    Example:
        >>> order = GlobalOrder(TrainConfig(batch_size=4, drop_last=False), num_samples=10)
        >>> [len(order.batch(step)) for step in range(order.steps_per_epoch)]
        [4, 4, 2]
        >>> both = [order.microbatches(0, rank, world_size=2)[0].keys for rank in range(2)]
        >>> both[0] + both[1] == order.batch(0)
        True

    Batch ``i`` of an epoch is the same for any world size: it is cut into microbatches, and each of
    these into one piece for every process. Pieces differ by at most one sample, and no sample
    is in two of them. The samples of any step can be computed at any time, which is how a run
    resumes in the middle of an epoch.
    """

    def __init__(self, config: TrainConfig, num_samples: int) -> None:
        self.num_samples = num_samples
        self._config = config
        self.steps_per_epoch = config.steps_per_epoch(num_samples)
        self.total_steps = config.epochs * self.steps_per_epoch
        self._epoch_order = functools.lru_cache(maxsize=2)(self._make_epoch_order)

    def epoch_of(self, step: int) -> int:
        """Epoch (from 0) that ``step`` (from 0) belongs to."""
        return step // self.steps_per_epoch

    def batch(self, step: int) -> tuple[SampleKey, ...]:
        """All samples of ``step``, over all processes and microbatches."""
        epoch, position = divmod(step, self.steps_per_epoch)
        order, repeats = self._epoch_order(epoch), self._config.repeated_augmentation
        start = position * self._config.batch_size
        places = range(start, min(start + self._config.batch_size, self.num_samples))
        return tuple(
            SampleKey(int(order[place // repeats]), epoch * repeats + place % repeats)
            for place in places
        )

    def microbatches(self, step: int, rank: int, world_size: int) -> list[LocalMicrobatch]:
        """This process's piece of each microbatch of ``step``.

        A microbatch that would be empty on every process is left out, on all of them.
        """
        local = []
        for keys in _pieces(self.batch(step), self._config.accumulate):
            if keys:
                piece = _pieces(keys, world_size)[rank]
                local.append(LocalMicrobatch(piece or keys[:1], is_filler=not piece))
        return local

    def batches(self, first_step: int, rank: int, world_size: int) -> Iterator[list[SampleKey]]:
        """What this process loads from ``first_step`` to the end, for a ``DataLoader``."""
        for step in range(first_step, self.total_steps):
            for microbatch in self.microbatches(step, rank, world_size):
                yield list(microbatch.keys)

    def _make_epoch_order(self, epoch: int) -> Tensor:
        generator = torch.Generator().manual_seed(mix_seed(self._config.seed, epoch))
        return torch.randperm(self.num_samples, generator=generator)


def _pieces(keys: tuple[SampleKey, ...], number: int) -> list[tuple[SampleKey, ...]]:
    places = np.array_split(range(len(keys)), number)
    return [tuple(keys[place] for place in piece) for piece in places]
