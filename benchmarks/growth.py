"""How the cost of training grows, beside what the machine could do at best; pictures and JSON.

    python benchmarks/growth.py --clock cpu --out docs/pictures
    python benchmarks/growth.py --device cuda --out docs/pictures      # cycles, tokens and batch

With cycles, tokens and images in a batch on one thread; with processes that load data, and with
processes that train. The best is measured in the same run: the operations at the speed of a large
product of matrices, and the bytes that cannot but be moved at the speed of a large copy.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.apart import Apart
from benchmarks.arithmetic import bandwidth, flops, peak_flops, saved_bytes
from benchmarks.comparison import CLOCKS, Figure, choose_clock, seconds, wall_seconds
from cycledistill import CycleDistillLoss, CycleWrapper
from cycledistill_pose import create_model
from cycledistill_pose.data import SyntheticPeople
from cycledistill_pose.models._block import Block


@dataclass
class Series:
    """One cost against one quantity.

    Attributes:
        name: Of the quantity; of the picture, too.
        what: What was measured.
        unit: Of the values and limits.
        x: The quantity's values.
        values: Medians.
        low: First quartiles.
        high: Third quartiles.
        limits: What the machine could do at best, by name.
    """

    name: str
    what: str
    unit: str
    x: list[int]
    values: list[float] = field(default_factory=list)
    low: list[float] = field(default_factory=list)
    high: list[float] = field(default_factory=list)
    limits: dict[str, list[float]] = field(default_factory=dict)

    def add(self, measured: list[float]) -> None:
        """The next point."""
        low, middle, high = statistics.quantiles(measured, n=4)
        self.values.append(middle)
        self.low.append(low)
        self.high.append(high)


@dataclass(frozen=True)
class Sizes:
    """How far each series goes."""

    cycles: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 7, 8)
    tokens: tuple[int, ...] = (64, 128, 256, 512, 1024, 2048, 4096)
    batches: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)
    workers: tuple[int, ...] = (0, 1, 2, 4)
    worlds: tuple[int, ...] = (1, 2)
    model: str = "tokenpose_t"
    people: int = 64
    smallest: str = "tokenpose_nano"
    images: int = 2
    samples: int = 1
    device: str = "cpu"


SIZES = {
    "cpu": Sizes(),
    "cuda": Sizes(
        batches=(1, 4, 16, 64, 256),
        workers=(),
        worlds=(),
        model="tokenpose_s_v1",
        smallest="tokenpose_s_v1",
        images=32,
        samples=16,
        device="cuda",
    ),
}


def measure(rounds: int, device: str = "cpu") -> Iterator[Figure]:
    """The points of all series, without pictures."""
    for series in all_series(max(2, min(rounds, 5)), SIZES[device]):
        for x, value, low, high in zip(
            series.x, series.values, series.low, series.high, strict=True
        ):
            yield Figure(f"{series.what}, {series.name} {x}", value, low, high, series.unit)


def all_series(rounds: int, sizes: Sizes) -> Iterator[Series]:
    """All of them, one after the other."""
    peak, speed = peak_flops(sizes.device), bandwidth(sizes.device)
    yield with_cycles(rounds, sizes, peak, speed)
    yield with_tokens(rounds, sizes, peak, speed)
    yield with_batch(rounds, sizes, peak, speed)
    if sizes.workers:
        yield with_workers(rounds, sizes)
    if sizes.worlds:
        yield with_world(rounds, sizes, peak, speed)


def with_cycles(rounds: int, sizes: Sizes, peak: float, speed: float) -> Series:
    """A training step of a pose network, a few images."""
    cycled = CycleWrapper(create_model(sizes.model).train().to(sizes.device))
    images = _images(cycled, sizes.images)
    what = f"training step, {sizes.model}, {sizes.images} images"
    series = Series("cycles", what, "s", list(sizes.cycles))
    steps = [Step(cycled, images, cycles) for cycles in sizes.cycles]
    return _in_turn(series, steps, rounds, peak, speed)


def with_tokens(rounds: int, sizes: Sizes, peak: float, speed: float) -> Series:
    """A training step of two blocks, 192 channels, 8 heads, in two cycles."""
    blocks = nn.Sequential(Block(192, 8, 576), Block(192, 8, 576)).train().to(sizes.device)
    cycled = CycleWrapper(blocks, 2, [*blocks])
    what = f"training step, 2 blocks x 2 cycles, width 192, samples: {sizes.samples}"
    shapes = [(sizes.samples, tokens, 192) for tokens in sizes.tokens]
    steps = [Step(cycled, torch.randn(shape, device=sizes.device), 2) for shape in shapes]
    return _in_turn(Series("tokens", what, "s", list(sizes.tokens)), steps, rounds, peak, speed)


def with_batch(rounds: int, sizes: Sizes, peak: float, speed: float) -> Series:
    """A training step of a pose network, for each image."""
    cycled = CycleWrapper(create_model(sizes.smallest).train().to(sizes.device))
    what = f"training step for an image, {sizes.smallest}, 2 cycles"
    steps = [Step(cycled, _images(cycled, batch), 2) for batch in sizes.batches]
    series = _in_turn(Series("batch", what, "s", list(sizes.batches)), steps, rounds, peak, speed)
    for values in (series.values, series.low, series.high, *series.limits.values()):
        values[:] = [value / batch for value, batch in zip(values, series.x, strict=True)]
    return series


def with_workers(rounds: int, sizes: Sizes) -> Series:
    """People drawn, augmented and collated, by the wall's clock; at best each core does as one."""
    series = Series("workers", "loading drawn people", "samples/s", list(sizes.workers))
    people = SyntheticPeople(sizes.people, input_size=(96, 128), fresh=True)
    for workers in sizes.workers:
        loader = DataLoader(
            people, batch_size=8, num_workers=workers, persistent_workers=workers > 0
        )
        _load(loader)  # starts the processes
        series.add(
            [
                sizes.people / wall_seconds(lambda loader=loader: _load(loader))
                for _ in range(rounds)
            ]
        )
    cores, alone = os.cpu_count() or 1, max(series.high[:2])
    series.limits["one process's best x cores in use"] = [
        alone * min(max(workers, 1), cores) for workers in series.x
    ]
    return series


def with_world(rounds: int, sizes: Sizes, peak: float, speed: float) -> Series:
    """Images per second of all processes together (gloo), by the wall's clock."""
    what = "training, tokenpose_nano, 2 cycles, 8 images a process"
    series = Series("processes", what, "images/s", list(sizes.worlds))
    cycled = CycleWrapper(create_model("tokenpose_nano").train())
    step = Step(cycled, _images(cycled, 8), 2)
    gradients = sum(parameter.nbytes for parameter in cycled.parameters())
    cores, best = os.cpu_count() or 1, []
    for world in sizes.worlds:
        with tempfile.TemporaryDirectory() as folder:
            file = str(Path(folder) / "store")
            ranks = [Apart(build_rank, file, rank, world) for rank in range(world)]
            series.add([8 * world / _together(ranks) for _ in range(rounds + 1)][1:])
            for rank in ranks:
                rank.close()
        exchanged = 2 * (world - 1) / world * gradients / speed
        best.append(8 * world / (step.operations() / peak * max(1.0, world / cores) + exchanged))
    series.limits["operations at peak + gradients at bandwidth"] = best
    return series


class Step:
    """Forward and backward with some cycles on some input; in bfloat16 on a GPU."""

    def __init__(self, cycled: nn.Module, given: Tensor, num_cycles: int) -> None:
        self.cycled, self.given, self.num_cycles = cycled, given, num_cycles
        self.criterion = CycleDistillLoss(lambda prediction: prediction.square().mean())

    def forward(self) -> Tensor:
        """The loss."""
        with torch.autocast(self.given.device.type, torch.bfloat16, enabled=self.given.is_cuda):
            output = self.cycled(self.given, num_cycles=self.num_cycles)
            total: Tensor = self.criterion(output).total
        return total

    def operations(self) -> int:
        """Floating-point operations, counted on one sample."""
        return len(self.given) * flops(Step(self.cycled, self.given[:1], self.num_cycles))

    def __call__(self) -> None:
        self.cycled.zero_grad(set_to_none=True)
        self.forward().backward()


def build_rank(file: str, rank: int, world: int) -> Callable[[], None]:
    """A training process among others."""
    store = dist.FileStore(file, world)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world)
    cycled = CycleWrapper(create_model("tokenpose_nano").train())
    step = Step(DistributedDataParallel(cycled), _images(cycled, 8), 2)
    return step


def _images(cycled: CycleWrapper, count: int) -> Tensor:
    width, height = cycled.plain.input_size
    device = next(cycled.parameters()).device
    images = torch.randn(count, 3, height, width, device=device)
    return images.contiguous(memory_format=torch.channels_last)


def _in_turn(series: Series, steps: list[Step], rounds: int, peak: float, speed: float) -> Series:
    """Each step in every round, one after the other; and its limits."""
    taken: list[list[float]] = [[] for _ in steps]
    for step in steps:
        step()
    for number in range(rounds):
        order = list(range(len(steps)))
        for index in order if number % 2 else reversed(order):
            taken[index].append(seconds(steps[index]))
    for measured in taken:
        series.add(measured)
    weights = sum(parameter.nbytes for parameter in steps[0].cycled.parameters())
    # What is kept is written and read once; weights are read twice, their gradients written.
    moved = [2 * saved_bytes(step.forward) + 3 * weights for step in steps]
    series.limits = {
        "operations at peak": [step.operations() / peak for step in steps],
        "bytes at bandwidth": [count / speed for count in moved],
    }
    return series


def _load(loader: DataLoader[Any]) -> None:
    for _ in loader:
        pass


def _together(ranks: list[Apart]) -> float:
    def run() -> None:
        for rank in ranks:
            rank.send()
        for rank in ranks:
            rank.receive()

    return wall_seconds(run)


def main() -> None:
    from benchmarks.growth_pictures import draw
    from benchmarks.run import machine

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: where others compute")
    parser.add_argument("--device", choices=SIZES, default="cpu")
    parser.add_argument("--out", type=Path, default=Path("runs/growth"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    choose_clock(options.clock)
    options.out.mkdir(parents=True, exist_ok=True)
    found = []
    prefix = "growth" if options.device == "cpu" else "growth-gpu"
    for series in all_series(options.rounds, SIZES[options.device]):
        found.append(series)
        print(series.name, *(f"{value:.3g}" for value in series.values), series.unit, flush=True)
        draw(series, options.out / f"{prefix}-{series.name}.png")
    record = {
        **machine(1),
        "clock": options.clock,
        "rounds": options.rounds,
        "series": [dataclasses.asdict(series) for series in found],
    }
    file = options.out / f"{prefix}.json"
    temporary = file.with_suffix(".part")
    temporary.write_text(json.dumps(record, indent=1) + "\n")
    temporary.replace(file)


if __name__ == "__main__":
    main()
