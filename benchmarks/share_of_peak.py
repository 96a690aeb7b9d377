"""Training steps beside what the machine could do at best: images a second, and share of its peak.

A step is forward, loss, backward and Adam with two cycles; on a GPU in bfloat16, not compiled and
compiled. The peak is that of a large matrix product in the same run.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator

import timm
import torch
from torch import Tensor, nn

from benchmarks.arithmetic import flops, peak_flops
from benchmarks.comparison import Figure, seconds
from cycledistill import CycleDistillLoss, CycleWrapper
from cycledistill_pose import create_model

# Images of a step, by network and device.
BATCHES: dict[str, dict[str, int]] = {
    "deit_tiny_patch16_224": {"cpu": 4, "cuda": 256},
    "tokenpose_t": {"cpu": 4, "cuda": 128},
    "tokenpose_s_v1": {"cpu": 4, "cuda": 128},
    "tokenpose_b": {"cpu": 2, "cuda": 128},
    "tokenpose_s_v2": {"cpu": 2, "cuda": 64},
}


def measure(rounds: int, device: str = "cpu") -> Iterator[Figure]:
    peak = peak_flops(device)
    yield Figure("a large product of matrices", peak / 1e12, peak / 1e12, peak / 1e12, "TFLOP/s")
    for name, batches in BATCHES.items():
        yield from of_model(name, batches[device], rounds, device, peak)


def of_model(name: str, batch: int, rounds: int, device: str, peak: float) -> Iterator[Figure]:
    """Images a second and share of the peak of one network's step."""
    torch.manual_seed(0)
    cycled = CycleWrapper(network(name).train(), num_cycles=2).to(device)
    criterion = CycleDistillLoss(lambda prediction: prediction.float().square().mean())
    optimizer = torch.optim.Adam(cycled.parameters(), lr=1e-5)
    size = 224 if name.startswith("deit") else 256
    images = torch.randn(batch, size, 224 if size == 224 else 192, 3, device=device)
    images = images.permute(0, 3, 1, 2)
    operations = flops(step_of(cycled, criterion, optimizer, images[:2])) / 2
    torch.compiler.reset()
    kinds: dict[str, nn.Module] = {"": cycled}
    if device == "cuda":
        kinds[", compiled"] = torch.compile(cycled)  # type: ignore[assignment]
    for kind, model in kinds.items():
        step = step_of(model, criterion, optimizer, images)
        for _ in range(3 if device == "cuda" else 1):
            step()
        rates = [batch / seconds(step) for _ in range(rounds)]
        low, middle, high = statistics.quantiles(rates, n=4)
        label = f"training step, {name}, 2 cycles, batch {batch}{kind}"
        yield Figure(label, middle, low, high, "images/s")
        shares = [100 * rate * operations / peak for rate in (middle, low, high)]
        yield Figure(label, *shares, "% of the peak")


def network(name: str) -> nn.Module:
    """A model of timm or one of the pose networks."""
    model: nn.Module = timm.create_model(name) if name.startswith("deit") else create_model(name)
    return model


def step_of(
    model: nn.Module, criterion: CycleDistillLoss, optimizer: torch.optim.Optimizer, images: Tensor
) -> Callable[[], None]:
    """Forward, loss, backward and the optimiser's step."""

    def step() -> None:
        with torch.autocast(images.device.type, torch.bfloat16, enabled=images.is_cuda):
            loss = criterion(model(images)).total
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return step
