"""Training samples that depend on the seed, the epoch and the index alone, and their workers."""

from __future__ import annotations

import atexit
import gc
import multiprocessing
import multiprocessing.util
import signal
import sys
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from cycledistill._loading import SampleKey, datasets_with_epochs
from cycledistill.training._seeding import seed_cpu, states_kept


class KeyedDataset(Dataset[Any]):
    """A dataset addressed by ``SampleKey``, each of whose samples has a seed of its own.

    Example:
        >>> import random
        >>> class Noise(Dataset):
        ...     def __len__(self):
        ...         return 2
        ...
        ...     def __getitem__(self, index):
        ...         return random.random()
        >>> dataset = KeyedDataset(Noise(), seed=0)
        >>> dataset[SampleKey(1, epoch=0)] == dataset[SampleKey(1, epoch=0)]
        True
        >>> dataset[SampleKey(1, epoch=0)] == dataset[SampleKey(1, epoch=1)]
        False

    While a sample is made, the global generators of Python, NumPy and PyTorch, which most
    transforms draw from, are seeded by (seed, epoch, index); their states are restored afterwards.
    A dataset that has ``set_epoch`` is told the epoch before each sample, also inside a ``Subset``
    or a ``ConcatDataset``. The epoch reaches the worker with the index, so the result is the same
    for any number of workers and processes and after a resume, and workers can live as long as the
    run.

    Raises:
        TypeError: The dataset has no length or cannot be indexed.
    """

    def __init__(self, dataset: Any, seed: int) -> None:
        if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__"):
            raise TypeError(
                "expected a train_dataset with a length and indices, so that its order can be "
                f"resumed, got {type(dataset).__name__}"
            )
        self.dataset = dataset
        self.seed = seed
        self._in_epochs = datasets_with_epochs(dataset)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: SampleKey) -> Any:
        return self.__getitems__([key])[0]

    def __getitems__(self, keys: list[SampleKey]) -> list[Any]:
        """The samples of a batch."""
        samples = []
        with states_kept():
            for key in keys:
                for dataset in self._in_epochs:
                    dataset.set_epoch(key.epoch)
                seed_cpu(self.seed, key.epoch, key.sample)
                samples.append(self.dataset[key.sample])
        return samples


def make_loader(dataset: Any, **options: Any) -> DataLoader[Any]:
    """A ``DataLoader`` that draws no global random numbers and whose workers ignore signals."""
    return DataLoader(dataset, generator=torch.Generator(), worker_init_fn=_start_worker, **options)


def _start_worker(worker: int) -> None:
    """Prepare a data worker: it ignores Ctrl-C and SIGTERM, and OpenCV starts no threads in it.

    The loop can finish its step after a signal only while its workers live; `_end_workers` ends
    them with the program. PyTorch limits its own threads in workers, OpenCV does not.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if (cv2 := sys.modules.get("cv2")) is not None:
        cv2.setNumThreads(0)


@atexit.register  # after multiprocessing registered its own, and so called before that
def _end_workers() -> None:
    """End workers that are left when a program ends, as after an error whose traceback lives on.

    multiprocessing would send them SIGTERM, which they ignore, and then wait forever.
    """
    if multiprocessing.active_children():
        for loading in gc.get_objects():
            if type(loading) is _MultiProcessingDataLoaderIter:
                loading._shutdown_workers()  # type: ignore[no-untyped-call]
