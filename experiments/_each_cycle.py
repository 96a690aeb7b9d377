"""The table of the score after each number of cycles, whatever the network was trained for."""

from __future__ import annotations

from experiments._report import markdown
from experiments._rows import Records, by_cycle, by_exit, interval
from experiments._statistics import spread
from experiments._study import Study


def each_cycle(study: Study, records: Records) -> str:
    """A line for each variant with finished runs: the score after 1, 2, ... cycles.

    Below it, a table for each variant that was measured with early exit.
    """
    lines = [
        [name, *(interval(spread(values)) for values in by_cycle(study, records, name))]
        for name in study.variants
    ]
    width = max(len(line) for line in lines)
    if width == 1:
        return "No run of it is done yet."
    head = [study.score, *(f"{n} cycle{'s' * (n > 1)}" for n in range(1, width))]
    rows = [line + [""] * (width - len(line)) for line in lines if len(line) > 1]
    tables = [markdown([head, ["---", *["--:"] * (width - 1)], *rows])]
    for name in study.variants:
        exits = by_exit(study, records, name)
        if exits:
            cycles = [f"{name}, early exit: mean cycles", *(f"{mean:.2f}" for mean, _ in exits)]
            scores = [study.score, *(interval(score) for _, score in exits)]
            tables.append(markdown([cycles, ["---", *["--:"] * len(exits)], scores]))
    return "\n\n".join(tables)
