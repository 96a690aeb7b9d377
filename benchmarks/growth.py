"""How the cost of a training step grows with cycles, tokens and images, beside the best there is.

The best is what the same machine does in the same run: the operations at the speed of a large
product of matrices, and the bytes that cannot but be moved at the speed of a large copy.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, ScalarFormatter
from timm.models.vision_transformer import Block
from torch import nn

from benchmarks._arithmetic import bandwidth, peak_flops, saved_bytes
from benchmarks._frame import Row, in_turn
from benchmarks.cycles import Step, images
from cycledistill import CycleWrapper
from cycledistill_pose import create_model


@dataclass(frozen=True)
class Point(Row):
    """A point of a curve.

    Attributes:
        curve: The quantity on the other axis, and the picture's name.
        x: Its value.
        best: What the machine could do at best, by name.
    """

    curve: str = ""
    x: int = 0
    best: dict[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{super().__str__()}, {self.curve} {self.x}"


@dataclass(frozen=True)
class Sizes:
    """How far each curve goes, and with which networks."""

    cycles: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 7, 8)
    tokens: tuple[int, ...] = (64, 128, 256, 512, 1024, 2048, 4096)
    batches: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)
    model: str = "tokenpose_t"
    smallest: str = "tokenpose_nano"
    images: int = 2
    samples: int = 1


SIZES = {
    "cpu": Sizes(),
    "cuda": Sizes(
        batches=(1, 4, 16, 64, 256),
        model="tokenpose_s_v1",
        smallest="tokenpose_s_v1",
        images=32,
        samples=16,
    ),
}


def measure(rounds: int, device: str = "cpu", sizes: Sizes | None = None) -> Iterator[Point]:
    """All points of the three curves."""
    sizes = sizes or SIZES[device]
    limits = peak_flops(device), bandwidth(device)

    cycled = CycleWrapper(create_model(sizes.model).train().to(device))
    given = images(sizes.images, cycled.plain.input_size, device)
    steps = {n: Step(cycled, given, n) for n in sizes.cycles}
    what = f"training step, {sizes.model}, {sizes.images} images"
    yield from points("cycles", what, steps, rounds, limits)

    blocks = [Block(192, 8, 3) for _ in range(2)]
    cycled = CycleWrapper(nn.Sequential(*blocks).train().to(device), 2, blocks)
    tokens = {n: torch.randn(sizes.samples, n, 192, device=device) for n in sizes.tokens}
    steps = {n: Step(cycled, one, 2) for n, one in tokens.items()}
    what = f"training step, 2 blocks x 2 cycles, width 192, samples: {sizes.samples}"
    yield from points("tokens", what, steps, rounds, limits)

    cycled = CycleWrapper(create_model(sizes.smallest).train().to(device))
    size = cycled.plain.input_size
    steps = {n: Step(cycled, images(n, size, device), 2) for n in sizes.batches}
    what = f"training step for an image, {sizes.smallest}, 2 cycles"
    yield from points("batch", what, steps, rounds, limits, divided=True)


def points(
    curve: str,
    what: str,
    steps: dict[int, Step],
    rounds: int,
    limits: tuple[float, float],
    divided: bool = False,
) -> Iterator[Point]:
    """Of one curve, in ms; ``divided`` by x where that is asked."""
    taken = in_turn({str(x): step for x, step in steps.items()}, rounds)
    peak, speed = limits
    for x, step in steps.items():
        scale = 1000 / (x if divided else 1)
        weights = sum(parameter.nbytes for parameter in step.cycled.parameters())
        # What is kept is written and read once; weights are read twice, their gradients written.
        moved = 2 * saved_bytes(step.forward) + 3 * weights
        best = {
            "operations at peak": scale * step.operations() / peak,
            "bytes at bandwidth": scale * moved / speed,
        }
        values = [scale * spent for spent in taken[str(x)]]
        yield Point.of(what, values, "ms", curve=curve, x=x, best=best)  # type: ignore[misc]


def draw(found: Sequence[Row], folder: Path, prefix: str) -> None:
    """A picture of each curve."""
    points = [row for row in found if isinstance(row, Point)]
    folder.mkdir(parents=True, exist_ok=True)
    for curve in dict.fromkeys(point.curve for point in points):
        draw_curve([p for p in points if p.curve == curve], folder / f"{prefix}-{curve}.png")


def draw_curve(found: Sequence[Point], path: Path) -> None:
    """With its quartiles, above what the machine could do at best."""
    figure = Figure(figsize=(6.4, 4.0), layout="constrained", facecolor="white")
    axes = figure.subplots()
    x = [point.x for point in found]
    low, high = [point.low for point in found], [point.high for point in found]
    axes.fill_between(x, low, high, color="C0", alpha=0.2, linewidth=0)
    middle = [point.value for point in found]
    axes.plot(x, middle, "o-", color="C0", label="measured (median, quartiles)")
    for name, dashes, colour in zip(found[0].best, ("--", ":"), ("C1", "C2"), strict=True):
        best = [point.best[name] for point in found]
        axes.plot(x, best, dashes, color=colour, label=f"at best: {name}")
    if found[0].curve == "cycles":
        axes.set_ylim(bottom=0)
    else:
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(ScalarFormatter())
        axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xticks(x, [str(value) for value in x])
    axes.set_xlabel("images in a batch" if found[0].curve == "batch" else found[0].curve)
    axes.set_ylabel(found[0].unit)
    axes.set_title(found[0].name, fontsize=10)
    axes.grid(color="0.9")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False)
    figure.savefig(path, dpi=130)
