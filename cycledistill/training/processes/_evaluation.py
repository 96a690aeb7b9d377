"""Evaluating on several processes: every sample once, no padding."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset

from cycledistill.training._loading import make_loader
from cycledistill.training.processes._communication import place_of_process


def evaluation_loader(
    dataset: Any,
    batch_size: int,
    num_workers: int = 0,
    collate_fn: Callable[[list[Any]], Any] | None = None,
) -> DataLoader[Any]:
    """This process's part of a dataset, in order; each sample is on one process only.

    Example:
        >>> loader = evaluation_loader([1.0, 2.0, 3.0], batch_size=2)
        >>> [len(batch) for batch in loader]
        [2, 1]

    Parts differ by at most one sample and may be empty, which is safe as the model passed to
    ``evaluate`` does not communicate. Combine the results with ``sum_over_processes``,
    ``gather_over_processes`` or a torchmetrics metric.

    Args:
        dataset: Anything with a length and indices, or an ``IterableDataset`` that yields this
            process's part itself.
        batch_size: Samples of one batch on this process.
        num_workers: Processes that load data.
        collate_fn: As for ``DataLoader``.
    """
    rank, world_size = place_of_process()
    streamed = isinstance(dataset, IterableDataset)
    return make_loader(
        dataset,
        batch_size=batch_size,
        sampler=None if streamed else range(rank, len(dataset), world_size),
        num_workers=num_workers,
        collate_fn=collate_fn,
        pin_memory=torch.cuda.is_available(),
    )
