"""A DataLoader with what images want of it."""

from __future__ import annotations

from collections.abc import Iterator, Sized
from typing import Any, Protocol

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler


class _HasEpoch(Sized, Protocol):
    @property
    def epoch(self) -> int: ...


class _EpochShuffle(Sampler[int]):
    """A permutation that depends on the seed and on the dataset's epoch alone."""

    def __init__(self, dataset: _HasEpoch, seed: int) -> None:
        self._dataset = dataset
        self._seed = seed

    def __len__(self) -> int:
        return len(self._dataset)

    def __iter__(self) -> Iterator[int]:
        generator = np.random.default_rng((self._seed, self._dataset.epoch))
        yield from generator.permutation(len(self._dataset)).tolist()


def _start_worker(_worker: int) -> None:
    cv2.setNumThreads(0)  # the workers are the threads


def pose_loader(
    dataset: Dataset[dict[str, Tensor]],
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

    Workers stay alive between epochs, memory is pinned where there is a GPU, and OpenCV starts no
    threads of its own in workers. The order is drawn from ``seed`` and the dataset's epoch, so a
    run that resumes after ``dataset.set_epoch(epoch)`` sees what it would have seen.

    Args:
        dataset: with ``epoch`` and ``set_epoch``.
        batch_size: people in a batch.
        shuffle: another order in every epoch.
        num_workers: processes that load; 0 loads in this one.
        drop_last: leave out a last batch that is not full.
        seed: of the order.
        **options: for ``torch.utils.data.DataLoader``; they win over the above.
    """
    settings: dict[str, Any] = {
        "batch_size": batch_size,
        "sampler": _EpochShuffle(dataset, seed) if shuffle else None,  # type: ignore[arg-type]
        "num_workers": num_workers,
        "drop_last": drop_last,
        "persistent_workers": num_workers > 0,
        "pin_memory": torch.cuda.is_available(),
        "worker_init_fn": _start_worker,
    }
    return DataLoader(dataset, **(settings | options))
