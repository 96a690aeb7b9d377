"""Images per second of every SDPose model in use, beside its parameters and its arithmetic."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from benchmarks.comparison import Figure, seconds
from cycledistill_pose import count_macs, create_sdpose

MODELS = ("sdpose_t", "sdpose_nano", "sdpose_s_v1", "sdpose_reg", "sdpose_b", "sdpose_s_v2")
# Rounds of a batch: a batch of 64 takes as long as 64 single images, and varies less.
BATCHES = {1: 1.0, 64: 0.2}


def measure(rounds: int) -> Iterator[Figure]:
    for name in MODELS:
        yield from of_model(
            name, {batch: max(2, round(rounds * s)) for batch, s in BATCHES.items()}
        )


def of_model(name: str, rounds: dict[int, int]) -> Iterator[Figure]:
    """Images per second of one model for each size of a batch, in as many rounds as are given."""
    cycled = create_sdpose(name).eval()
    macs = " / ".join(f"{count / 1e9:.2f}" for count in count_macs(cycled))
    parameters = sum(p.numel() for p in cycled.model.parameters() if p.requires_grad) / 1e6
    width, height = cycled.model.input_size
    for batch, count in rounds.items():
        images = torch.randn(batch, height, width, 3).permute(0, 3, 1, 2)  # as normalize_images
        call = _call(cycled, images)
        call()
        rates = [batch / seconds(call) for _ in range(count)]
        low, middle, high = statistics.quantiles(rates, n=4)
        label = f"{name}, {parameters:.2f} M, {macs} GMACs, batch {batch}, {count} rounds"
        yield Figure(label, middle, low, high, "images/s")


def _call(model: nn.Module, images: Tensor) -> Callable[[], None]:
    @torch.no_grad()
    def call() -> None:
        model(images)

    return call
