"""The table of the score after each number of cycles, whatever the network was trained for."""

from __future__ import annotations

from collections.abc import Mapping

from experiments._report import Records, interval, markdown
from experiments._statistics import spread
from experiments._study import Study


def each_cycle(study: Study, records: Records) -> str:
    """A line for each variant with finished runs: the score after 1, 2, ... cycles."""
    lines: list[list[str]] = []
    for name in study.variants:
        keys = [study.run(name, seed).key for seed in study.seeds]
        found = [records[key]["metrics"] for key in keys if key in records]
        found = [metrics for metrics in found if metrics]
        cycles = range(1, 1 + max((_cycles(study, metrics) for metrics in found), default=0))
        scores = [[m[f"{study.split}/{study.metric}/{n}"] for m in found] for n in cycles]
        lines.append([name, *(interval(spread(values)) for values in scores)])
    width = max(len(line) for line in lines)
    if width == 1:
        return "No run of it is done yet."
    head = [study.score, *(f"{n} cycle{'s' * (n > 1)}" for n in range(1, width))]
    rows = [line + [""] * (width - len(line)) for line in lines if len(line) > 1]
    return markdown([head, ["---", *["--:"] * (width - 1)], *rows])


def _cycles(study: Study, metrics: Mapping[str, float]) -> int:
    return sum(name.startswith(f"{study.split}/{study.metric}/") for name in metrics)
