"""Run the benchmarks, print one table and save it as JSON with machine and date.

python benchmarks/run.py                        # all
python benchmarks/run.py --quick                # few rounds
python benchmarks/run.py --only codec cycles    # these alone
python benchmarks/run.py --device cuda          # on a GPU
python benchmarks/run.py --only growth --pictures docs/pictures
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import torch
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks import (
    codec,
    cycles,
    generation,
    growth,
    inference,
    loading,
    memory,
    training,
    wrapper,
)
from benchmarks._frame import CLOCKS, NoDataError, Row, choose_clock, machine, write


class Benchmark(NamedTuple):
    """What measures it, and how many rounds of the shortest one round of it is worth."""

    measure: Callable[[int, str], Iterator[Row]]
    worth: float = 1.0
    on_gpu: bool = True


BENCHMARKS = {
    "codec": Benchmark(codec.measure, on_gpu=False),
    "loading": Benchmark(loading.measure, 3),
    "wrapper": Benchmark(wrapper.measure, 2),
    "cycles": Benchmark(cycles.measure, 5),
    "generation": Benchmark(generation.measure, 5),
    "inference": Benchmark(inference.measure, 2.5),
    "training": Benchmark(training.measure, 5),
    "memory": Benchmark(memory.measure),
    "growth": Benchmark(growth.measure, 6),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few rounds: a smoke test, no figures")
    parser.add_argument(
        "--only", nargs="+", metavar="NAME", choices=BENCHMARKS, help=", ".join(BENCHMARKS)
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--rounds", type=int, default=20, help="of the shortest benchmarks")
    parser.add_argument("--threads", type=int, default=1, help="threads of one computation")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: where others compute")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks.json"))
    parser.add_argument("--pictures", type=Path, help="folder for the curves of growth")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    cv2.setNumThreads(options.threads)
    choose_clock(options.clock)
    rounds = 1 if options.quick else options.rounds
    console = Console(highlight=False, markup=False)
    found: list[Row] = []
    minutes: dict[str, float] = {}
    for name in options.only or BENCHMARKS:
        benchmark = BENCHMARKS[name]
        if options.device != "cpu" and not benchmark.on_gpu:
            continue
        console.print(name)
        torch.manual_seed(0)
        start = time.monotonic()
        try:
            for row in benchmark.measure(max(2, round(rounds / benchmark.worth)), options.device):
                found.append(row)
                minutes[name] = round((time.monotonic() - start) / 60, 1)
                save(found, minutes, options)
                console.print(
                    f"  {minutes[name]:5.1f} min  {_value(row)}  {row.name}", soft_wrap=True
                )
        except NoDataError as error:
            console.print(f"  not measured: {error}")
    if not found:
        sys.exit(1)
    console.print(_table(found), f"saved: {options.out}")
    if options.pictures:
        draw(found, options.pictures, "growth" if options.device == "cpu" else "growth-gpu")


def save(found: list[Row], minutes: dict[str, float], options: argparse.Namespace) -> None:
    """Write what there is so far, so that a run that is stopped leaves something."""
    record = {
        **machine(options.threads),
        "clock": options.clock,
        "rounds": 1 if options.quick else options.rounds,
        "minutes": minutes,
        "results": [dataclasses.asdict(row) for row in found],
    }
    write(options.out, json.dumps(record, indent=2) + "\n")


def draw(found: list[Row], folder: Path, prefix: str) -> None:
    """A picture of each curve."""
    points = [row for row in found if isinstance(row, growth.Point)]
    folder.mkdir(parents=True, exist_ok=True)
    for curve in dict.fromkeys(point.curve for point in points):
        own = [point for point in points if point.curve == curve]
        growth.draw(own, folder / f"{prefix}-{curve}.png")


def _value(row: Row) -> str:
    return f"{row.value:.4g} {row.unit}" if row.unit else f"{row.value:.3f}"


def _table(found: list[Row]) -> Table:
    table = Table(title="Medians of what was measured in turn")
    for heading in ("what", "median", "quartiles", "target", "met"):
        table.add_column(heading)
    for row in found:
        name = f"{row.name}, {row.curve} {row.x}" if isinstance(row, growth.Point) else row.name
        quartiles = f"{row.low:.4g} - {row.high:.4g}"
        target = "" if row.target is None else f"{'>=' if row.at_least else '<='} {row.target:g}"
        met = {None: "", True: "yes", False: "no"}[row.met]
        table.add_row(name, _value(row), quartiles, target, met)
    return table


if __name__ == "__main__":
    main()
