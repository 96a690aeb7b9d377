"""Evaluating on several processes: every sample once, no padding."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch.utils.data import DataLoader, IterableDataset

from cycledistill.training._dataset import start_worker
from cycledistill.training._parallel import gather_lists


def evaluation_loader(
    dataset: Any,
    batch_size: int,
    num_workers: int = 0,
    collate_fn: Callable[[list[Any]], Any] | None = None,
) -> DataLoader[Any]:
    """This process's part of a dataset, in order, each sample on one process only.

    Example:
        >>> loader = evaluation_loader([1.0, 2.0, 3.0], batch_size=2)
        >>> [len(batch) for batch in loader]
        [2, 1]

    Parts may differ by a sample and be empty, since the model that ``fit`` hands to ``evaluate``
    does not communicate. Sum or gather what was counted with ``sum_over_processes``,
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
    return DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=None if streamed else range(rank, len(dataset), world_size),
        num_workers=num_workers,
        collate_fn=collate_fn,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),
        worker_init_fn=start_worker,
    )


def sum_over_processes(values: Mapping[str, float]) -> dict[str, float]:
    """Sum of each value over all processes; the values themselves when there is one.

    Example:
        >>> sum_over_processes({"correct": 3, "count": 4})
        {'correct': 3, 'count': 4}
    """
    everyone: Sequence[Mapping[str, float]] = gather_lists([dict(values)])
    return {name: sum(one[name] for one in everyone) for name in values}


def gather_over_processes(items: list[Any]) -> list[Any]:
    """All processes' lists joined, the same on each process.

    Example:
        >>> gather_over_processes(["a", "b"])
        ['a', 'b']
    """
    return gather_lists(items)


def is_main_process() -> bool:
    """Whether this process is the one that prints and writes files."""
    return place_of_process()[0] == 0


def place_of_process() -> tuple[int, int]:
    """This process's rank and the number of processes, before they are connected as well."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
