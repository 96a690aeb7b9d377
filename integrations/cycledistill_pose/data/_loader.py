"""A DataLoader for people in images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from cycledistill._loading import SampleKey, datasets_with_epochs


class _ByKey(Dataset[dict[str, Tensor]]):
    """The dataset addressed by index and epoch, so that workers need no state in common."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset
        self._in_epochs = datasets_with_epochs(dataset)

    @property
    def epoch(self) -> int:
        return self._in_epochs[0].epoch if self._in_epochs else 0

    def _set_epoch(self, epoch: int) -> None:
        for dataset in self._in_epochs:
            dataset.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitems__(self, keys: Sequence[SampleKey]) -> list[dict[str, Tensor]]:
        """The samples of a batch, all of one epoch."""
        before = self.epoch
        self._set_epoch(keys[0].epoch)
        try:
            several = getattr(self.dataset, "__getitems__", None)
            indices = [key.sample for key in keys]
            return several(indices) if several else [self.dataset[index] for index in indices]
        finally:
            self._set_epoch(before)  # without workers it is the user's own object

    def __getitem__(self, key: SampleKey) -> dict[str, Tensor]:
        return self.__getitems__([key])[0]


class _Keys(Sampler[Any]):
    """A sampler's indices, or lists of them, each with the dataset's epoch when iteration began.

    Without a sampler, a permutation that depends on the seed and the epoch alone.
    """

    def __init__(self, sampler: Any, dataset: _ByKey, seed: int) -> None:
        self._sampler = sampler
        self._dataset = dataset
        self._seed = seed

    def __len__(self) -> int:
        return len(self._dataset if self._sampler is None else self._sampler)

    def __iter__(self) -> Iterator[Any]:
        epoch, order = self._dataset.epoch, self._sampler
        if order is None:
            order = np.random.default_rng((self._seed, epoch)).permutation(len(self)).tolist()
        for item in order:
            if isinstance(item, (list, tuple)):
                yield [SampleKey(int(index), epoch) for index in item]
            else:
                yield SampleKey(int(item), epoch)


def _start_worker(_worker: int) -> None:
    cv2.setNumThreads(0)  # the workers are the threads


def pose_loader(
    dataset: Any,
    batch_size: int,
    *,
    shuffle: bool = False,
    num_workers: int = 0,
    drop_last: bool = False,
    seed: int = 0,
    **options: Any,
) -> DataLoader[dict[str, Tensor]]:
    """Batch the people of a `CocoKeypoints` or `SyntheticPeople`.

    >>> from cycledistill_pose.data import SyntheticPeople, pose_loader
    >>> loader = pose_loader(SyntheticPeople(8, input_size=(48, 64)), batch_size=4, shuffle=True)
    >>> next(iter(loader))["image"].shape
    torch.Size([4, 64, 48, 3])

    Workers stay alive between epochs, memory is pinned if there is a GPU, and OpenCV starts no
    threads of its own in workers. The order depends on ``seed`` and on the dataset's epoch when
    iteration begins. This epoch is sent to the workers with every index, so a run that resumes
    after ``dataset.set_epoch(epoch)`` gets the same samples.

    Args:
        dataset: One with ``epoch`` and ``set_epoch``, or a ``Subset`` of one.
        batch_size: People in a batch.
        shuffle: Use a new order in every epoch.
        num_workers: Processes that load data; 0 loads in this one.
        drop_last: Leave out an incomplete last batch.
        seed: Seed of the order.
        **options: For ``torch.utils.data.DataLoader``; they override the above.
    """
    settings: dict[str, Any] = {
        "num_workers": num_workers,
        "persistent_workers": num_workers > 0,
        "pin_memory": torch.cuda.is_available(),
        "worker_init_fn": _start_worker,
        **options,
    }
    people = _ByKey(dataset)
    if settings.get("batch_sampler") is not None:
        settings["batch_sampler"] = _Keys(settings["batch_sampler"], people, seed)
    else:
        sampler = settings.get("sampler")
        if sampler is None and not shuffle:
            sampler = range(len(dataset))
        settings["sampler"] = _Keys(sampler, people, seed)
        settings |= {"batch_size": batch_size, "drop_last": drop_last}
    return DataLoader(people, **settings)
