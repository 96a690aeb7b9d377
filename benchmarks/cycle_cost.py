"""What a cycle costs in training: the time of N cycles over one, against the arithmetic's ratio."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator

import timm
import torch
from torch import Tensor, nn

from benchmarks.arithmetic import flops
from benchmarks.comparison import Comparison, seconds
from cycledistill import CycleDistillLoss, CycleWrapper
from cycledistill_pose import create_model

POSE_MODELS = {
    "SDPose-T": "tokenpose_t",
    "SDPose-S-V1": "tokenpose_s_v1",
    "SDPose-Reg": "tokenreg_s",
    "SDPose-S-V2": "tokenpose_s_v2",
    "SDPose-B": "tokenpose_b",
}
CYCLES = (2, 3, 4)


BATCHES = {"cpu": (4, 2), "cuda": (256, 64)}


def measure(rounds: int, device: str = "cpu") -> Iterator[Comparison]:
    """In float32 on a CPU, in bfloat16 on a GPU."""
    of_deit, of_pose = BATCHES[device]
    deit = timm.create_model("deit_tiny_patch16_224").to(device)
    images = torch.randn(of_deit, 3, 224, 224, device=device)
    yield from of_model("DeiT-Ti", deit, images, rounds)
    images = torch.randn(of_pose, 3, 256, 192, device=device)
    if device == "cuda":
        images = images.contiguous(memory_format=torch.channels_last)
    for name, network in POSE_MODELS.items():
        yield from of_model(name, create_model(network).to(device), images, rounds)


def of_model(name: str, model: nn.Module, images: Tensor, rounds: int) -> list[Comparison]:
    """1, 2, 3 and 4 cycles in turn, in an order that turns round with every other round."""
    cycled = CycleWrapper(model.train(), num_cycles=1)
    criterion = CycleDistillLoss(_square)
    steps = {n: _step(cycled, criterion, images, n) for n in (1, *CYCLES)}
    arithmetic = {n: flops(_step(cycled, criterion, images[:2], n)) for n in steps}
    for step in steps.values():
        step()
    ratios: dict[int, list[float]] = {n: [] for n in CYCLES}
    for number in range(rounds):
        order = list(steps) if number % 2 else list(reversed(steps))
        taken = {n: seconds(steps[n]) for n in order}
        for n in CYCLES:
            ratios[n].append(taken[n] / taken[1] * arithmetic[1] / arithmetic[n])
    cycled.unwrap()
    found = []
    for n in CYCLES:
        low, middle, high = statistics.quantiles(ratios[n], n=4)
        label = (
            f"training step, {name}, batch {len(images)}: {n} cycles / 1, over the arithmetic's "
            f"{arithmetic[n] / arithmetic[1]:.2f}"
        )
        note = "the ratio of multiply-accumulates"
        found.append(Comparison(label, middle, low, high, 1.05, note))
    return found


def _square(prediction: Tensor | tuple[Tensor, ...]) -> Tensor:
    parts = [prediction] if isinstance(prediction, Tensor) else list(prediction)
    return torch.stack([part.float().square().mean() for part in parts]).sum()


def _step(
    cycled: CycleWrapper, criterion: CycleDistillLoss, images: Tensor, num_cycles: int
) -> Callable[[], None]:
    def step() -> None:
        cycled.zero_grad(set_to_none=True)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=images.is_cuda):
            loss = criterion(cycled(images, num_cycles=num_cycles)).total
        loss.backward()

    return step
