"""What the wrapper costs in use: eval through it over the plain model, eager and compiled."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from functools import partial

import timm
import torch
from torch import nn

from benchmarks._frame import Row, in_turn, ratio
from cycledistill import CycleWrapper

CALLS = 2000


def measure(rounds: int, device: str = "cpu") -> Iterator[Row]:
    yield overhead(rounds)
    model = timm.create_model("deit_tiny_patch16_224").to(device)
    yield from of_model("DeiT-Ti", model, rounds, device != "cpu" or has_compiler())


@torch.no_grad()
def of_model(
    name: str, plain: nn.Module, rounds: int, compiled: bool, size: int = 224
) -> Iterator[Row]:
    """One image and 32, eager and, where asked, compiled for each size of a batch."""
    kinds: dict[str, list[nn.Module]] = {"eager": [CycleWrapper(plain.eval()), plain]}
    if compiled:
        kinds["compiled"] = [torch.compile(m, dynamic=False) for m in kinds["eager"]]  # type: ignore[misc]
    for kind, models in kinds.items():
        for batch in (1, 32):
            images = torch.randn(batch, 3, size, size, device=next(plain.parameters()).device)
            one, other = (model(images) for model in models)
            if kind == "eager":
                assert torch.equal(one, other)
            else:  # on a GPU each picks its kernels by timing them
                torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)
            calls = dict(zip("ab", (partial(model, images) for model in models), strict=True))
            taken = in_turn(calls, rounds if batch > 1 else 4 * rounds)
            values = ratio(taken["a"], taken["b"])
            yield Row.of(f"eval, {name}, {kind}, batch {batch}: wrapped / plain", values, "", 1.01)


@torch.no_grad()
def overhead(rounds: int) -> Row:
    """What a call through the wrapper takes longer, on blocks that do nothing."""
    plain = nn.Sequential(nn.Identity(), nn.Identity()).eval()
    cycled, tokens = CycleWrapper(plain, blocks=[*plain]).eval(), torch.zeros(1, 1, 1)

    def repeat(model: nn.Module) -> None:
        for _ in range(CALLS):
            model(tokens)

    taken = in_turn({"cycled": partial(repeat, cycled), "plain": partial(repeat, plain)}, rounds)
    pairs = zip(taken["cycled"], taken["plain"], strict=True)
    added = [1e6 * (one - other) / CALLS for one, other in pairs]
    return Row.of("eval: what the wrapper adds to a call", added, "us")


def has_compiler() -> bool:
    """Whether torch.compile finds the C++ compiler that it needs on a CPU."""
    return any(shutil.which(name) for name in (os.environ.get("CXX"), "g++", "clang++") if name)
