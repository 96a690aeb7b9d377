"""Moving average of the weights."""

from __future__ import annotations

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_avg_fn, get_ema_multi_avg_fn


class MovingAverage(AveragedModel):
    """Exponential moving average of a module's parameters and floating-point buffers.

    Example:
        >>> layer = nn.Linear(1, 1, bias=False)
        >>> _ = nn.init.constant_(layer.weight, 0.0)
        >>> average = MovingAverage(layer, decay=0.9)
        >>> _ = nn.init.constant_(layer.weight, 1.0)
        >>> average.update(layer)
        >>> round(average.module.weight.item(), 3)
        0.1

    Starts from the weights at hand; other buffers (counters) are copied.
    """

    def __init__(self, module: nn.Module, decay: float, sharded: bool = False) -> None:
        # Shards cannot be averaged together with buffers, which have none.
        together = None if sharded else get_ema_multi_avg_fn(decay)
        one_by_one = get_ema_avg_fn(decay) if sharded else None
        super().__init__(module, avg_fn=one_by_one, multi_avg_fn=together, use_buffers=True)
        self.n_averaged += 1  # with 0, the first update would replace the weights

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Move towards the module's present weights."""
        self.update_parameters(module)
        for mine, buffer in zip(self.module.buffers(), module.buffers(), strict=True):
            if not buffer.is_floating_point():
                mine.copy_(buffer)
