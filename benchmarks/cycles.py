"""What a cycle costs in training: the time of N cycles over one, and over the arithmetic's ratio.

Beside it images a second of two cycles, and their share of what a large product of matrices does.
A step is forward, loss and backward, in float32 on a CPU and in bfloat16 on a GPU.
"""

from __future__ import annotations

from collections.abc import Iterator

import timm
import torch
from torch import Tensor, nn

from benchmarks._arithmetic import flops, peak_flops
from benchmarks._frame import Row, in_turn, ratio
from cycledistill import CycleDistillLoss, CycleWrapper
from cycledistill_pose import create_model

DEIT = "deit_tiny_patch16_224"
POSE = ("tokenpose_t", "tokenpose_s_v1", "tokenreg_s", "tokenpose_s_v2", "tokenpose_b")
BATCHES = {"cpu": (4, 2), "cuda": (256, 64)}  # of DeiT, of the others


class Step:
    """A training step with some cycles on some images."""

    def __init__(self, cycled: nn.Module, images: Tensor, num_cycles: int) -> None:
        self.cycled, self.images, self.num_cycles = cycled, images, num_cycles
        self.criterion = CycleDistillLoss(_square)

    def forward(self) -> Tensor:
        """The loss."""
        with torch.autocast(self.images.device.type, torch.bfloat16, enabled=self.images.is_cuda):
            output = self.cycled(self.images, num_cycles=self.num_cycles)
            total: Tensor = self.criterion(output).total
        return total

    def operations(self) -> int:
        """Floating-point operations, counted on one sample."""
        return len(self.images) * flops(Step(self.cycled, self.images[:1], self.num_cycles))

    def __call__(self) -> None:
        self.cycled.zero_grad(set_to_none=True)
        self.forward().backward()


def measure(rounds: int, device: str = "cpu") -> Iterator[Row]:
    peak = peak_flops(device)
    yield Row.of("a large product of matrices", [peak / 1e12], "TFLOP/s")
    of_deit, of_pose = BATCHES[device]
    deit = timm.create_model(DEIT).to(device)
    yield from of_model(DEIT, deit, of_deit, (224, 224), rounds, peak)
    for name in POSE:
        model = create_model(name).to(device)
        yield from of_model(name, model, of_pose, model.input_size, rounds, peak)


def of_model(
    name: str, model: nn.Module, batch: int, size: tuple[int, int], rounds: int, peak: float
) -> Iterator[Row]:
    """One to four cycles in turn, on images of a width and height."""
    cycled = CycleWrapper(model.train())
    given = images(batch, size, next(model.parameters()).device)
    steps = {n: Step(cycled, given, n) for n in (1, 2, 3, 4)}
    operations = {n: step.operations() for n, step in steps.items()}
    taken = in_turn({str(n): step for n, step in steps.items()}, rounds)
    label = f"training step, {name}, batch {batch}"
    for n in (2, 3, 4):
        arithmetic = operations[n] / operations[1]
        values = ratio(taken[str(n)], taken["1"], 1 / arithmetic)
        what = f"{label}: {n} cycles / 1, over the arithmetic's {arithmetic:.2f}"
        yield Row.of(what, values, "", 1.05)
    yield Row.of(f"{label}, 2 cycles", [batch / s for s in taken["2"]], "images/s")
    shares = [100 * operations[2] / s / peak for s in taken["2"]]
    yield Row.of(f"{label}, 2 cycles", shares, "% of the peak")
    cycled.unwrap()


def images(count: int, size: tuple[int, int], device: torch.device | str) -> Tensor:
    """Random images `[B, 3, H, W]`, channels-last as `normalize_images` makes them."""
    width, height = size
    return torch.randn(count, height, width, 3, device=device).permute(0, 3, 1, 2)


def _square(prediction: Tensor | tuple[Tensor, ...]) -> Tensor:
    parts = [prediction] if isinstance(prediction, Tensor) else list(prediction)
    return torch.stack([part.float().square().mean() for part in parts]).sum()
