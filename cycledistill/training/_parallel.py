"""Model and loss as one module, and how several processes train it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

from cycledistill.training._errors import TrainingError


class Losses(Protocol):
    """What a loss must offer to the loop; ``cycledistill.CycleLosses`` does."""

    @property
    def total(self) -> Tensor:
        """Scalar to minimise, the mean over the samples of the batch."""

    def scalars(self) -> dict[str, float]:
        """Its terms by name, such as ``{"loss": ..., "task/1": ..., "tokens/all/1": ...}``."""


ForwardLoss = Callable[[Any, Any, Any], "tuple[Losses, int]"]


class LossModule(nn.Module):
    """Model and criterion in one ``forward``, so that the gradients of both are averaged.

    Also where mixed precision and data parallelism take hold: all computation of a step goes
    through this ``forward``.
    """

    def __init__(self, model: nn.Module, criterion: nn.Module, forward_loss: ForwardLoss) -> None:
        super().__init__()
        self.model = model
        self.criterion = criterion
        self._forward_loss = forward_loss

    def forward(self, batch: Any) -> tuple[Losses, int]:
        """Losses of a batch and its number of samples."""
        return self._forward_loss(self.model, self.criterion, batch)


def shard(module: LossModule, optimizer: Optimizer) -> None:
    """Divide the parameters among the processes (FSDP2), in place, and tell the optimiser."""
    names = {parameter: name for name, parameter in module.named_parameters()}
    places = [[names[parameter] for parameter in g["params"]] for g in optimizer.param_groups]
    shard_model(module)
    sharded = dict(module.named_parameters())
    for group, group_names in zip(optimizer.param_groups, places, strict=True):
        group["params"] = [sharded[name] for name in group_names]


def shard_model(module: nn.Module) -> None:
    """Divide a module's parameters among the processes, in place.

    Each element of its lists of equal modules is gathered on its own while it runs, all other
    parameters together.
    """
    from torch.distributed.fsdp import fully_shard

    for unit in _shard_units(module):
        fully_shard(unit)
    fully_shard(module)


def is_sharded(module: nn.Module) -> bool:
    """Whether ``shard`` was applied to the module."""
    return hasattr(module, "set_requires_gradient_sync")


@contextlib.contextmanager
def gradient_sync(module: nn.Module, wanted: bool) -> Iterator[None]:
    """Average gradients over the processes in this backward pass, or leave it to a later one."""
    shared: Any = module
    if is_sharded(module):
        shared.set_requires_gradient_sync(wanted)
        yield
    elif not wanted and hasattr(module, "no_sync"):
        with shared.no_sync():
            yield
    else:
        yield


def sum_counts(counts: list[float], device: torch.device) -> list[float]:
    """Element-wise sum over all processes."""
    if not _distributed():
        return counts
    dtype = torch.float32 if device.type == "mps" else torch.float64
    total = torch.tensor(counts, dtype=dtype, device=device)
    dist.all_reduce(total)
    return total.tolist()


def gather_lists(items: list[Any]) -> list[Any]:
    """All processes' lists, joined in the order of the processes; the same on each of them."""
    if not _distributed():
        return list(items)
    pieces: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(pieces, items)
    return [item for piece in pieces for item in piece]


def broadcast_value(value: Any) -> Any:
    """The main process's value, on every process."""
    if not _distributed():
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def on_main(function: Callable[[], Any]) -> Any:
    """Call a function on the main process; its result, or its error, reaches all of them."""
    result, error = None, None
    if not _distributed() or dist.get_rank() == 0:
        try:
            result = function()
        except (OSError, ValueError, TypeError, TrainingError) as caught:
            if not _distributed():
                raise
            error = caught
    result, error = broadcast_value((result, error))
    if error is not None:
        raise error
    return result


@contextlib.contextmanager
def lost_processes_explained() -> Iterator[None]:
    """Turn what the communication says when another process is gone into a clear error.

    Raises:
        TrainingError: In place of that error.
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


def broadcast_from_main(tensors: Iterable[Tensor]) -> None:
    """Give every process the main process's values, in place."""
    if _distributed():
        for tensor in tensors:
            dist.broadcast(tensor.detach(), src=0)


def _distributed() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def _shard_units(model: nn.Module) -> Iterator[nn.Module]:
    for child in model.children():
        elements = list(child.children())
        alike = len(elements) > 1 and len({type(element) for element in elements}) == 1
        if isinstance(child, (nn.ModuleList, nn.Sequential)) and alike:
            if any(True for _ in elements[0].parameters()):
                yield from elements
        else:
            yield from _shard_units(child)
