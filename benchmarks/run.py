"""Run the benchmarks, print one table and save it as JSON with machine and date.

python benchmarks/run.py                        # all
python benchmarks/run.py --quick                # few rounds
python benchmarks/run.py --only codec cycles    # these alone
python benchmarks/run.py --device cuda          # on a GPU
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks import (
    coco_evaluation,
    codec,
    cycle_cost,
    growth,
    images_per_second,
    input_pipeline,
    keeping_up,
    memory,
    share_of_peak,
    straight,
    straight_training,
    wrapper_in_use,
)
from benchmarks.comparison import CLOCKS, Comparison, Figure, choose_clock
from benchmarks.tiny_coco import NoDataError

Rows = Iterable[Comparison | Figure]
ON_CPU = {
    "codec": codec.measure,
    "input": input_pipeline.measure,
    "evaluation": coco_evaluation.measure,
}
ON_EITHER = {
    "wrapper": wrapper_in_use.measure,
    "cycles": cycle_cost.measure,
    "images": images_per_second.measure,
    "straight": straight.measure,
    "training": straight_training.measure,
    "memory": memory.measure,
    "peak": share_of_peak.measure,
    "keeping-up": keeping_up.measure,
    "growth": growth.measure,
}
# A round takes milliseconds or minutes: the part of the rounds that the long ones get.
SHARES = {"wrapper": 0.5, "cycles": 0.2, "straight": 0.4, "training": 0.2, "memory": 0.2}
SHARES |= {"peak": 0.2, "images": 0.4, "input": 0.3, "evaluation": 0.3, "growth": 0.1}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few rounds: a smoke test, no figures")
    names = [*ON_CPU, *ON_EITHER]
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=names, help=", ".join(names))
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument(
        "--rounds", type=int, default=20, help="of short comparisons; others get a part of them"
    )
    parser.add_argument("--threads", type=int, default=1, help="threads of one computation")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: where others compute")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks.json"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    choose_clock(options.clock)
    rounds = 3 if options.quick else options.rounds
    console = Console(highlight=False, markup=False)
    found: list[Comparison | Figure] = []
    minutes: dict[str, float] = {}
    chosen = measures(options.device, options.only, rounds)
    for number, (name, measure) in enumerate(chosen.items(), 1):
        start = time.monotonic()
        console.print(f"{number} of {len(chosen)}: {name}")
        try:
            for row in measure():
                found.append(row)
                minutes[name] = round((time.monotonic() - start) / 60, 1)
                _save(found, minutes, rounds, options)
                console.print(f"  {minutes[name]:5.1f} min  {_line(row)}", soft_wrap=True)
        except NoDataError as error:
            console.print(f"  not measured: {error}")
    if not found:
        sys.exit(1)
    for table in (_ratios(found, rounds), _figures(found, rounds)):
        if table.row_count:
            console.print(table)
    console.print(f"saved: {options.out}")


def measures(device: str, only: list[str] | None, rounds: int) -> dict[str, Callable[[], Rows]]:
    """What is to be called, by name, those of a CPU alone left out on a GPU."""

    def times(name: str) -> int:
        return max(3, round(rounds * SHARES.get(name, 1)))

    found: dict[str, Callable[[], Rows]] = {
        name: partial(measure, times(name), device) for name, measure in ON_EITHER.items()
    }
    if device == "cpu":
        found = {name: partial(measure, times(name)) for name, measure in ON_CPU.items()} | found
    return {name: measure for name, measure in found.items() if name in (only or found)}


def _line(row: Comparison | Figure) -> str:
    if isinstance(row, Figure):
        return f"{row.value:.4g} {row.unit}  {row.name}"
    return f"{row.ratio:.3f}  {row.name}"


def _save(
    found: list[Comparison | Figure],
    minutes: dict[str, float],
    rounds: int,
    options: argparse.Namespace,
) -> None:
    """Write what there is so far, so that a run that is stopped leaves something."""
    record = {
        **machine(options.threads),
        "clock": options.clock,
        "rounds": rounds,
        "shares_of_rounds": SHARES,
        "minutes": minutes,
        "results": [dataclasses.asdict(row) for row in found],
    }
    out = options.out
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_suffix(".part")
    temporary.write_text(json.dumps(record, indent=2) + "\n")
    temporary.replace(out)


def machine(threads: int) -> dict[str, Any]:
    """Date, hardware and versions, for a record."""
    return {
        "date": datetime.date.today().isoformat(),
        "machine": {
            "processor": _processor(),
            "cores": os.cpu_count(),
            "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
            "threads": threads,
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
    }


def _ratios(found: list[Comparison | Figure], rounds: int) -> Table:
    table = Table(title=f"Ratios of what was measured in turn, median of up to {rounds} rounds")
    for heading in ("what", "ratio", "quartiles", "target", "met"):
        table.add_column(heading)
    for row in found:
        if isinstance(row, Comparison):
            quartiles = f"{row.low:.3f} - {row.high:.3f}"
            met = "" if row.limit is None else "yes" if row.met else "no"
            table.add_row(row.name, f"{row.ratio:.3f}", quartiles, row.target, met)
    return table


def _figures(found: list[Comparison | Figure], rounds: int) -> Table:
    table = Table(title=f"Quantities, median of up to {rounds} rounds")
    for heading in ("what", "value", "quartiles", "unit"):
        table.add_column(heading)
    for row in found:
        if isinstance(row, Figure):
            table.add_row(row.name, f"{row.value:.4g}", f"{row.low:.4g} - {row.high:.4g}", row.unit)
    return table


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
