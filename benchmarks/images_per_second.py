"""Images per second of every SDPose model in use, beside its parameters and its arithmetic."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from benchmarks.comparison import Figure, seconds
from cycledistill_pose import count_macs, create_sdpose

MODELS = ("sdpose_t", "sdpose_nano", "sdpose_s_v1", "sdpose_reg", "sdpose_b", "sdpose_s_v2")
BATCHES = (1, 8)


def measure(rounds: int) -> Iterator[Figure]:
    for name in MODELS:
        cycled = create_sdpose(name).eval()
        macs = " / ".join(f"{count / 1e9:.2f}" for count in count_macs(cycled))
        parameters = sum(p.numel() for p in cycled.model.parameters() if p.requires_grad) / 1e6
        width, height = cycled.model.input_size
        calls = {batch: _call(cycled, torch.randn(batch, 3, height, width)) for batch in BATCHES}
        rates: dict[int, list[float]] = {batch: [] for batch in BATCHES}
        calls[1]()
        for _ in range(rounds):
            for batch, call in calls.items():
                rates[batch].append(batch / seconds(call))
        for batch in BATCHES:
            low, middle, high = statistics.quantiles(rates[batch], n=4)
            label = f"{name}, {parameters:.2f} M, {macs} GMACs, batch {batch}"
            yield Figure(label, middle, low, high, "images/s")


def _call(model: nn.Module, images: Tensor) -> Callable[[], None]:
    @torch.no_grad()
    def call() -> None:
        model(images)

    return call
