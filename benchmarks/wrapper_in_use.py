"""What the wrapper costs in use: eval through it over the plain model."""

from __future__ import annotations

import timm
import torch

from benchmarks.comparison import Comparison, compare
from cycledistill import CycleWrapper


@torch.no_grad()
def measure(rounds: int) -> list[Comparison]:
    found = []
    for batch in (1, 32):
        model = timm.create_model("deit_tiny_patch16_224").eval()
        cycled = CycleWrapper(model, num_cycles=2)
        images = torch.randn(batch, 3, 224, 224)
        assert torch.equal(cycled(images), model(images))

        def through(cycled: CycleWrapper = cycled, images: torch.Tensor = images) -> None:
            cycled(images)

        def plain(model: torch.nn.Module = model, images: torch.Tensor = images) -> None:
            model(images)

        found.append(
            compare(
                f"eval, DeiT-Ti, batch {batch}: wrapped / plain",
                through,
                plain,
                rounds if batch > 1 else 4 * rounds,
                limit=1.01,
                note="the plain model",
            )
        )
    return found
