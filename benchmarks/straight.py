"""Inference: ours over a straight translation of the paper, same weights, same outputs."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from benchmarks.comparison import Comparison, compare
from benchmarks.straight_sdpose import StraightSDPose
from cycledistill_pose import create_sdpose


def measure(rounds: int) -> Iterator[Comparison]:
    yield from _measure("SDPose-T", "sdpose_t", rounds)
    yield from _measure("SDPose-S-V1", "sdpose_s_v1", rounds)


def _measure(name: str, model: str, rounds: int) -> Iterator[Comparison]:
    cycled = create_sdpose(model)
    num_cycles, depth = cycled.num_cycles, len(cycled.model.blocks)
    straight = StraightSDPose(copy.deepcopy(cycled.model.backbone), depth, num_cycles)
    straight.load_state_dict(cycled.state_dict())
    images = torch.randn(2, 3, 256, 192)

    for batch in (1, 2):
        cycled.eval()
        straight.eval()
        some = images[:batch]
        with torch.no_grad():
            _assert_close(cycled(some), straight(some))
        yield compare(
            f"inference, {name}, batch {batch}: straight translation / ours",
            _inference(cycled, some),
            _inference(straight, some),
            rounds,
            limit=2.0,
            note="the images per second of the straight translation",
            speed_up=True,
        )


def _assert_close(one: Tensor, other: Tensor) -> None:
    """Both are the same up to 1e-4 of the largest value."""
    scale = float(other.detach().abs().max())
    torch.testing.assert_close(one, other, rtol=0, atol=1e-4 * scale)


def _inference(model: nn.Module, images: Tensor) -> Callable[[], None]:
    @torch.no_grad()
    def run() -> None:
        model(images)

    return run
