"""What a cycle costs in training: the time of N cycles over one, against the arithmetic's ratio."""

from __future__ import annotations

from collections.abc import Callable

import timm
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.comparison import Comparison, compare
from cycledistill import CycleDistillLoss, CycleWrapper
from cycledistill_pose import create_model


def measure(rounds: int) -> list[Comparison]:
    images = torch.randn(8, 3, 224, 224)
    deit = timm.create_model("deit_tiny_patch16_224")
    found = _measure("DeiT-Ti", deit, images, rounds)
    pose = create_model("tokenpose_t")
    return found + _measure("SDPose-T", pose, torch.randn(4, 3, 256, 192), rounds)


def _measure(name: str, model: nn.Module, images: Tensor, rounds: int) -> list[Comparison]:
    cycled = CycleWrapper(model.train(), num_cycles=1)
    criterion = CycleDistillLoss(lambda prediction: prediction.float().square().mean())
    one = _step(cycled, criterion, images, 1)
    found = []
    for num_cycles in (2, 3, 4):
        several = _step(cycled, criterion, images, num_cycles)
        arithmetic = _flops(several) / _flops(one)
        found.append(
            compare(
                f"training step, {name}: {num_cycles} cycles / 1, over the arithmetic's "
                f"{arithmetic:.2f}",
                several,
                one,
                rounds,
                limit=1.05,
                note="the ratio of multiply-accumulates",
                divide_by=arithmetic,
            )
        )
    cycled.unwrap()
    return found


def _step(
    cycled: CycleWrapper, criterion: CycleDistillLoss, images: Tensor, num_cycles: int
) -> Callable[[], None]:
    def step() -> None:
        cycled.zero_grad(set_to_none=True)
        criterion(cycled(images, num_cycles=num_cycles)).total.backward()

    return step


def _flops(function: Callable[[], None]) -> int:
    with FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()
