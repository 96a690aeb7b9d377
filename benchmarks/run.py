"""Run the benchmarks, print one table and save it as JSON with machine and date.

python benchmarks/run.py                        # all
python benchmarks/run.py --quick                # few rounds
python benchmarks/run.py --only codec memory    # these alone
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
from benchmarks import codec, cycle_cost, wrapper_in_use
from benchmarks.comparison import Comparison, Figure

BENCHMARKS = {
    "wrapper": wrapper_in_use.measure,
    "cycles": cycle_cost.measure,
    "codec": codec.measure,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few rounds: a smoke test, no figures")
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=BENCHMARKS, help="some alone")
    parser.add_argument("--rounds", type=int, default=30, help="rounds of each comparison")
    parser.add_argument("--threads", type=int, default=1, help="threads of one computation")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks.json"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rounds = 3 if options.quick else options.rounds
    console = Console()
    found: list[Comparison | Figure] = []
    for name in track(options.only or list(BENCHMARKS), "measuring", console=console):
        found += BENCHMARKS[name](rounds)
    for table in (_ratios(found, rounds), _figures(found, rounds)):
        if table.row_count:
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


def _ratios(found: list[Comparison | Figure], rounds: int) -> Table:
    table = Table(title=f"Ratios of what was measured in turn, median of {rounds} rounds")
    for heading in ("what", "ratio", "quartiles", "target", "met"):
        table.add_column(heading)
    for row in found:
        if isinstance(row, Comparison):
            quartiles = f"{row.low:.3f} - {row.high:.3f}"
            met = "" if row.limit is None else "yes" if row.met else "no"
            table.add_row(row.name, f"{row.ratio:.3f}", quartiles, row.target, met)
    return table


def _figures(found: list[Comparison | Figure], rounds: int) -> Table:
    table = Table(title=f"Quantities, median of {rounds} rounds")
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
