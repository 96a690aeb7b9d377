"""Communication between the processes of a run."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from cycledistill.training._errors import TrainingError


def place_of_process() -> tuple[int, int]:
    """This process's rank and the number of processes, even before they are connected."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def is_main_process() -> bool:
    """Whether this process is the one that prints and writes files."""
    return place_of_process()[0] == 0


def gather_over_processes(items: list[Any]) -> list[Any]:
    """The concatenation of all processes' lists, the same on each process.

    Example:
        >>> gather_over_processes(["a", "b"])
        ['a', 'b']
    """
    if not _distributed():
        return list(items)
    pieces: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(pieces, items)
    return [item for piece in pieces for item in piece]


def sum_over_processes(values: Mapping[str, float]) -> dict[str, float]:
    """Sum of each value over all processes.

    Example:
        >>> sum_over_processes({"correct": 3, "count": 4})
        {'correct': 3, 'count': 4}
    """
    everyone = gather_over_processes([dict(values)])
    return {name: sum(one[name] for one in everyone) for name in values}


def sum_counts(counts: list[float], device: torch.device) -> list[float]:
    """Element-wise sum over all processes, faster than `sum_over_processes`."""
    if not _distributed():
        return counts
    dtype = torch.float32 if device.type == "mps" else torch.float64
    total = torch.tensor(counts, dtype=dtype, device=device)
    dist.all_reduce(total)
    return total.tolist()


def broadcast_value(value: Any) -> Any:
    """The main process's value, on every process."""
    return gather_over_processes([value])[0]


def broadcast_tensors(tensors: Iterable[Tensor]) -> None:
    """Give every process the main process's values, in place."""
    if _distributed():
        for tensor in tensors:
            dist.broadcast(tensor.detach(), src=0)


def on_main(function: Callable[[], Any]) -> Any:
    """Call a function on the main process; all processes get its result or its error."""
    if not _distributed():
        return function()
    result, error = None, None
    if dist.get_rank() == 0:
        try:
            result = function()
        except (OSError, ValueError, TypeError, TrainingError) as caught:
            error = caught
    result, error = broadcast_value((result, error))
    if error is not None:
        raise error
    return result


@contextlib.contextmanager
def lost_processes_explained() -> Iterator[None]:
    """Replace the communication errors that follow the end of another process by a clear one.

    Raises:
        TrainingError: Another process is gone.
    """
    try:
        yield
    except RuntimeError as error:
        text = str(error)
        gone = any(words in text for words in ("onnection closed", "onnection reset", "roken pipe"))
        if isinstance(error, TrainingError) or not (isinstance(error, dist.DistError) or gone):
            raise
        raise TrainingError(
            "lost contact with another process of this run: it ended, or did not answer in time. "
            f"Its own error, printed before or on its machine, says why. ({text.splitlines()[0]})"
        ) from error


def _distributed() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
