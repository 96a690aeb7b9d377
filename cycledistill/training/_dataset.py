"""Training samples that depend on the seed, the epoch and the index alone."""

from __future__ import annotations

import signal
from typing import Any

from torch.utils.data import Dataset, IterableDataset

from cycledistill.training._sampler import SampleKey
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
        >>> dataset[SampleKey(1, draw=0)] == dataset[SampleKey(1, draw=0)]
        True
        >>> dataset[SampleKey(1, draw=0)] == dataset[SampleKey(1, draw=1)]
        False

    While a sample is made, the global generators of Python, NumPy and PyTorch, which most
    transforms draw from, are seeded by (seed, draw, index); their states are put back afterwards. A
    dataset that has ``set_epoch`` is told the draw before. As the draw travels with every index to
    whichever worker makes the sample, the result is the same for any number of workers and
    processes and after a resume, and workers can live as long as the run.

    Raises:
        TypeError: The dataset has no length or cannot be indexed.
    """

    def __init__(self, dataset: Any, seed: int) -> None:
        if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__"):
            raise TypeError(
                "train_dataset must have a length and indices, as an order that can be resumed "
                f"needs; got {type(dataset).__name__}"
            )
        self.dataset = dataset
        self.seed = seed
        self._set_epoch = getattr(dataset, "set_epoch", None)
        self._draw: int | None = None

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: SampleKey) -> Any:
        with states_kept():
            return self._sample(key)

    def __getitems__(self, keys: list[SampleKey]) -> list[Any]:
        """The samples of a batch: the generators' states are kept once for all of them."""
        with states_kept():
            return [self._sample(key) for key in keys]

    def _sample(self, key: SampleKey) -> Any:
        if self._set_epoch is not None and key.draw != self._draw:
            self._set_epoch(key.draw)
            self._draw = key.draw
        seed_cpu(self.seed, key.draw, key.sample)
        return self.dataset[key.sample]


def leave_signals_to_parent(worker: int) -> None:
    """Let a data worker outlive Ctrl-C and SIGTERM, so that the loop can finish its step."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
