"""Moving average of the weights."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from cycledistill.training._state import like, named_tensors, whole


class MovingAverage:
    """Exponential moving average of a module's parameters and floating-point buffers.

    Example:
        >>> layer = nn.Linear(1, 1, bias=False)
        >>> _ = nn.init.constant_(layer.weight, 0.0)
        >>> average = MovingAverage(layer, decay=0.9)
        >>> _ = nn.init.constant_(layer.weight, 1.0)
        >>> average.update(layer)
        >>> round(average.state()["weight"].item(), 3)
        0.1

    Starts from the weights at hand; integer buffers (counters) are copied. Shards stay shards.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self._update = get_ema_multi_avg_fn(decay)
        self._tensors: dict[str, Tensor] = {}
        self.restart(module)

    def restart(self, module: nn.Module) -> None:
        """Begin anew from the module's present weights."""
        self._tensors = {name: tensor.detach().clone() for name, tensor in named_tensors(module)}

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Move towards the module's present weights."""
        current = dict(named_tensors(module))
        averaged = [name for name, tensor in current.items() if tensor.is_floating_point()]
        by_kind: dict[tuple[type, torch.dtype], list[str]] = {}
        for name in averaged:
            kind = (type(self._tensors[name]), current[name].dtype)
            by_kind.setdefault(kind, []).append(name)
        for names in by_kind.values():
            self._update([self._tensors[n] for n in names], [current[n].detach() for n in names], 0)
        for name, tensor in current.items():
            if not tensor.is_floating_point():
                self._tensors[name].copy_(tensor)

    def state(self) -> dict[str, Tensor]:
        """The averages by name, whole. All processes must call it when the module is sharded."""
        return {name: whole(tensor) for name, tensor in self._tensors.items()}

    @torch.no_grad()
    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take averages that ``state`` gave."""
        for name, tensor in self._tensors.items():
            tensor.copy_(like(state[name].to(tensor.device), tensor))
