"""Inference: ours over a straight translation of the paper, same weights, same outputs."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from benchmarks.comparison import Comparison, compare
from benchmarks.straight_sdpose import StraightSDPose
from cycledistill_pose import create_sdpose

BATCHES = {"cpu": (1, 2), "cuda": (1, 64)}


def measure(rounds: int, device: str = "cpu") -> Iterator[Comparison]:
    yield from _measure("SDPose-T", "sdpose_t", rounds, device)
    yield from _measure("SDPose-S-V1", "sdpose_s_v1", rounds, device)


def _measure(name: str, model: str, rounds: int, device: str) -> Iterator[Comparison]:
    cycled = create_sdpose(model)
    num_cycles, depth = cycled.num_cycles, len(cycled.plain.blocks)
    straight = StraightSDPose(copy.deepcopy(cycled.plain.backbone), depth, num_cycles)
    straight.load_state_dict(cycled.state_dict())
    cycled.eval().to(device)
    straight.eval().to(device)
    for batch in BATCHES[device]:
        images = torch.randn(batch, 3, 256, 192, device=device)
        # cuDNN's convolutions may round to 10 bits.
        with torch.backends.cudnn.flags(enabled=False), torch.no_grad():
            _assert_close(cycled(images), straight(images))
        kinds = {"ours": _inference(cycled, images)}
        if device == "cuda":
            kinds["ours in bfloat16, compiled"] = _fast(cycled, images)
        for kind, call in kinds.items():
            yield compare(
                f"inference, {name}, batch {batch}: straight translation / {kind}",
                call,
                _inference(straight, images),
                rounds,
                limit=2.0,
                note="the images per second of the straight translation",
                speed_up=True,
            )


def _assert_close(one: Tensor, other: Tensor) -> None:
    """Both are the same up to 1e-4 of the largest value."""
    scale = float(other.detach().abs().max())
    torch.testing.assert_close(one, other, rtol=0, atol=1e-4 * scale)


def _fast(model: nn.Module, images: Tensor) -> Callable[[], None]:
    torch.compiler.reset()
    compiled = torch.compile(model, dynamic=False)
    images = images.contiguous(memory_format=torch.channels_last)

    @torch.no_grad()
    def run() -> None:
        with torch.autocast("cuda", torch.bfloat16):
            compiled(images)

    return run


def _inference(model: nn.Module, images: Tensor) -> Callable[[], None]:
    @torch.no_grad()
    def run() -> None:
        model(images)

    return run
