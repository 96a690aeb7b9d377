"""What the wrapper costs in use: eval through it over the plain model, eager and compiled."""

from __future__ import annotations

import os
import shutil
import statistics
from collections.abc import Iterator
from functools import partial

import timm
import torch
from torch import Tensor, nn

from benchmarks.comparison import Comparison, Figure, compare, seconds
from cycledistill import CycleWrapper

BATCHES = (1, 32)


def measure(rounds: int, device: str = "cpu") -> Iterator[Comparison | Figure]:
    yield overhead(rounds)
    model = timm.create_model("deit_tiny_patch16_224")
    compiled = device != "cpu" or has_compiler()
    yield from of_model("DeiT-Ti", model.to(device), rounds, compiled)


def of_model(
    name: str, plain: nn.Module, rounds: int, compiled: bool, size: int = 224
) -> Iterator[Comparison]:
    """Both batch sizes, eager and, where asked, compiled for each size of its own."""
    cycled: nn.Module = CycleWrapper(plain.eval(), num_cycles=2)
    kinds = {"eager": (cycled, plain)}
    if compiled:
        kinds["compiled"] = (_compiled(cycled), _compiled(plain))
    for kind, (ours, theirs) in kinds.items():
        for batch in BATCHES:
            label = f"eval, {name}, {kind}, batch {batch}: wrapped / plain"
            images = torch.randn(batch, 3, size, size, device=next(plain.parameters()).device)
            yield _compare(label, ours, theirs, images, rounds)


@torch.no_grad()
def overhead(rounds: int, calls: int = 2000) -> Figure:
    """What a call through the wrapper takes longer, on blocks that do nothing."""
    plain = nn.Sequential(nn.Identity(), nn.Identity()).eval()
    cycled, tokens = CycleWrapper(plain, blocks=[*plain]).eval(), torch.zeros(1, 1, 1)

    def repeat(model: nn.Module) -> float:
        return seconds(lambda: [model(tokens) for _ in range(calls)]) / calls * 1e6

    added = [repeat(cycled) - repeat(plain) for _ in range(rounds)]
    low, middle, high = statistics.quantiles(added, n=4)
    return Figure("eval: what the wrapper adds to a call", middle, low, high, "us")


def has_compiler() -> bool:
    """Whether torch.compile finds the C++ compiler that it needs on a CPU."""
    names = (os.environ.get("CXX"), "g++", "clang++")
    return any(shutil.which(name) for name in names if name)


@torch.no_grad()
def _compare(
    label: str, ours: nn.Module, theirs: nn.Module, images: Tensor, rounds: int
) -> Comparison:
    one, other = ours(images), theirs(images)
    if "compiled" in label:  # on a GPU each picks its kernels by timing them
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)
    else:
        assert torch.equal(one, other)
    times = rounds if len(images) > 1 else 4 * rounds
    calls = partial(ours, images), partial(theirs, images)
    return compare(label, *calls, times, limit=1.01, note="the plain model")


def _compiled(model: nn.Module) -> nn.Module:
    compiled: nn.Module = torch.compile(model, dynamic=False)  # type: ignore[assignment]
    return compiled
