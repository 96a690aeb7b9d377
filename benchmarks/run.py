"""Run the benchmarks, print one table and save it as JSON with machine and date.

python benchmarks/run.py                        # all
python benchmarks/run.py --quick                # few rounds
python benchmarks/run.py --only codec cycles    # these alone
python benchmarks/run.py --device cuda          # on a GPU
python benchmarks/run.py --only growth --pictures docs/pictures
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import sys
import time
from pathlib import Path
from typing import Any, Literal

import cv2
import torch
import tyro

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks._frame import NoDataError, Row, choose_clock, machine
from cycledistill.saving._files import replacing

# A module with a function `measure` each, and how many rounds of the shortest one of it is worth.
BENCHMARKS = {
    "codec": 1,
    "loading": 3,
    "wrapper": 2,
    "cycles": 5,
    "generation": 5,
    "inference": 2.5,
    "training": 5,
    "memory": 1,
    "growth": 6,
}
Name = Literal[tuple(BENCHMARKS)]  # type: ignore[valid-type]


def main(
    only: tuple[Name, ...] = (),
    quick: bool = False,
    device: Literal["cpu", "cuda"] = "cpu",
    rounds: int = 20,
    threads: int = 1,
    clock: Literal["wall", "cpu"] = "wall",
    out: Path = Path("runs/benchmarks.json"),
    pictures: Path | None = None,
) -> None:
    """Run the benchmarks, print one table and save it with machine and date.

    Args:
        only: Benchmarks to run; by default all.
        quick: Run few rounds, as a smoke test; ignore the figures.
        device: Where the models run.
        rounds: Rounds of the shortest benchmarks; longer ones run fewer.
        threads: Threads that PyTorch and OpenCV use.
        clock: Time to measure: wall, or that of the processor (cpu) on a busy machine.
        out: JSON file to write, with the figures, the machine and the date.
        pictures: Folder in which growth draws its curves.
    """
    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)
    choose_clock(clock)
    rounds = 1 if quick else rounds
    record = {**machine(threads), "clock": clock, "rounds": rounds}
    found: list[Row] = []
    minutes: dict[str, float] = {}
    print("median (quartiles)  target, met?  what")
    for name in only or BENCHMARKS:
        if name == "codec" and device != "cpu":
            continue  # it runs where people are loaded
        measure = importlib.import_module(f"benchmarks.{name}").measure
        torch.manual_seed(0)
        start = time.monotonic()
        try:
            for row in measure(max(2, round(rounds / BENCHMARKS[name])), device):
                found.append(row)
                minutes[name] = round((time.monotonic() - start) / 60, 1)
                save(out, {**record, "minutes": minutes}, found)
                print(row, flush=True)
        except NoDataError as error:
            print(f"{name} not measured: {error}")
    if not found:
        sys.exit(1)
    print(f"saved: {out}")
    if pictures:
        from benchmarks import growth

        growth.draw(found, pictures, "growth" if device == "cpu" else "growth-gpu")


def save(out: Path, record: dict[str, Any], found: list[Row]) -> None:
    """Write what there is so far, so that a run that is stopped leaves something."""
    results = [dataclasses.asdict(row) for row in found]
    with replacing(out) as file:
        json.dump({**record, "results": results}, file, indent=2)


if __name__ == "__main__":
    tyro.cli(main)
