"""Run the benchmarks, print one table and save it as JSON with machine and date.

python benchmarks/run.py            # all
python benchmarks/run.py --quick    # few rounds
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import os
import platform
import sys
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks import cycle_cost, wrapper_in_use
from benchmarks.comparison import Comparison

BENCHMARKS = {"wrapper in use": wrapper_in_use.measure, "cost of a cycle": cycle_cost.measure}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few rounds: a smoke test, no figures")
    parser.add_argument("--rounds", type=int, default=30, help="rounds of each comparison")
    parser.add_argument("--threads", type=int, default=1, help="threads of one computation")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks.json"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rounds = 3 if options.quick else options.rounds
    console = Console()
    found: list[Comparison] = []
    for _, measure in track(BENCHMARKS.items(), "measuring", console=console):
        found += measure(rounds)
    table = Table(title=f"Ratios of times taken in turn, median of {rounds} rounds")
    for heading in ("what", "ratio", "quartiles", "limit", "met"):
        table.add_column(heading)
    for row in found:
        limit = "" if row.limit is None else f"{row.limit:.2f} x {row.note}"
        quartiles = f"{row.low:.3f} - {row.high:.3f}"
        met = "" if row.limit is None else "yes" if row.met else "no"
        table.add_row(row.name, f"{row.ratio:.3f}", quartiles, limit, met)
    console.print(table)
    record = {
        "date": datetime.date.today().isoformat(),
        "machine": {
            "processor": _processor(),
            "cores": os.cpu_count(),
            "threads": options.threads,
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        "rounds": rounds,
        "results": [dataclasses.asdict(row) for row in found],
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    temporary = options.out.with_suffix(".part")
    temporary.write_text(json.dumps(record, indent=2) + "\n")
    temporary.replace(options.out)
    console.print(f"saved: {options.out}", highlight=False)


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
