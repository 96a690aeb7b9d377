"""The epoch of a sample, which loaders send to their workers with every index."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch.utils.data import Dataset


class SampleKey(NamedTuple):
    """Address of one augmented sample.

    Attributes:
        sample: Its index in the dataset.
        epoch: The epoch of its augmentation: with repeated augmentation, in which an epoch holds
            several copies, ``epoch * repeats + copy``.
    """

    sample: int
    epoch: int


def datasets_with_epochs(dataset: Any) -> list[Any]:
    """The datasets that have ``set_epoch``, also those inside a ``Subset`` or ``ConcatDataset``."""
    if hasattr(dataset, "set_epoch"):
        return [dataset]
    inner = [*getattr(dataset, "datasets", ()), getattr(dataset, "dataset", None)]
    return [d for one in inner if isinstance(one, Dataset) for d in datasets_with_epochs(one)]
