"""Images per second of every SDPose model in use, beside its parameters and its arithmetic.

On a GPU also in bfloat16, and compiled.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from benchmarks.comparison import Figure, seconds
from cycledistill import count_macs
from cycledistill_pose import create_sdpose

MODELS = ("sdpose_t", "sdpose_nano", "sdpose_s_v1", "sdpose_reg", "sdpose_b", "sdpose_s_v2")
# Rounds of a batch: a batch of 64 takes as long as 64 single images, and varies less.
BATCHES = {1: 1.0, 64: 0.2}


KINDS = {"cpu": ("float32",), "cuda": ("float32", "bfloat16", "bfloat16, compiled")}


def measure(rounds: int, device: str = "cpu") -> Iterator[Figure]:
    counts = {batch: max(2, round(rounds * s)) for batch, s in BATCHES.items()}
    for name in MODELS:
        yield from of_model(name, counts, device)


def of_model(name: str, rounds: dict[int, int], device: str = "cpu") -> Iterator[Figure]:
    """Images per second of one model for each size of a batch, in as many rounds as are given."""
    cycled = create_sdpose(name).eval()
    width, height = cycled.plain.input_size
    image = torch.zeros(1, 3, height, width)
    macs = " / ".join(f"{count / 1e9:.2f}" for count in count_macs(cycled, image))
    parameters = sum(p.numel() for p in cycled.plain.parameters() if p.requires_grad) / 1e6
    cycled.to(device)
    torch.compiler.reset()
    for batch, count in rounds.items():
        images = torch.randn(batch, height, width, 3, device=device)
        for kind in KINDS[device]:
            call = _call(cycled, images.permute(0, 3, 1, 2), kind)  # as normalize_images makes them
            for _ in range(3 if device == "cuda" else 1):
                call()
            rates = [batch / seconds(call) for _ in range(count)]
            low, middle, high = statistics.quantiles(rates, n=4)
            label = f"{name}, {parameters:.2f} M, {macs} GMACs, {kind}, batch {batch}"
            yield Figure(f"{label}, {count} rounds", middle, low, high, "images/s")


def _call(model: nn.Module, images: Tensor, kind: str) -> Callable[[], None]:
    if "compiled" in kind:
        model = torch.compile(model, dynamic=False)  # type: ignore[assignment]

    @torch.no_grad()
    def call() -> None:
        with torch.autocast(images.device.type, torch.bfloat16, enabled="bfloat16" in kind):
            model(images)

    return call
