"""What a study's records say about each of its variants."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from experiments._statistics import Spread, spread
from experiments._study import Run, Study

Records = Mapping[str, Mapping[str, Any]]


class Row(NamedTuple):
    """What a study's records say about a variant.

    Attributes:
        name: Of the variant.
        config: Its config, with some seed.
        values: Score in percent with the cycles in use, by seed.
        last_cycle: Score after the last cycle of training, by seed.
        diverged: Runs whose loss became infinite or not a number; they have no values.
        training_macs: Of one run; NaN where none is done.
        macs_in_use: For one image; NaN where no run is done.
    """

    name: str
    config: Run
    values: dict[int, float]
    last_cycle: dict[int, float]
    diverged: int
    training_macs: float
    macs_in_use: float


def rows(study: Study, records: Records) -> list[Row]:
    """A row for each variant, in the study's order."""
    found = []
    for name in study.variants:
        runs = {seed: study.run(name, seed).key for seed in study.seeds}
        own = {seed: records[key] for seed, key in runs.items() if key in records}
        found.append(_row(study, name, own))
    return found


def _row(study: Study, name: str, found: Mapping[int, Mapping[str, Any]]) -> Row:
    config = study.variants[name]
    finished = {seed: record for seed, record in found.items() if not record["diverged"]}

    def score(cycles: int) -> dict[int, float]:
        metric = f"{study.split}/{config.metric}/{cycles}"
        return {seed: record["metrics"][metric] for seed, record in finished.items()}

    budget = next(iter(found.values()))["budget"] if found else {}
    return Row(
        name,
        config,
        score(config.inference_cycles),
        score(config.training_cycles),
        len(found) - len(finished),
        budget.get("training_macs", math.nan),
        budget.get("macs_in_use", math.nan),
    )


def by_cycle(study: Study, records: Records, name: str) -> list[list[float]]:
    """Scores after cycle 1, 2, ... of a variant's finished runs, whatever it was trained for."""
    prefix = f"{study.split}/{study.metric}/"
    found = _metrics(study, records, name)
    cycles = sorted({int(n) for n in _under(prefix, found) if n.isdecimal()})
    return [[metrics[f"{prefix}{n}"] for metrics in found] for n in cycles]


def by_exit(study: Study, records: Records, name: str) -> list[tuple[float, Spread]]:
    """Mean cycles and scores of a variant with early exit; empty where it was not measured."""
    prefix = f"{study.split}/exit/"
    found = _metrics(study, records, name)
    aims = sorted({n.split("/")[0] for n in _under(prefix, found)}, key=float)
    return [
        (
            spread([metrics[f"{prefix}{aim}/cycles"] for metrics in found]).mean,
            spread([metrics[f"{prefix}{aim}/{study.metric}"] for metrics in found]),
        )
        for aim in aims
    ]


def _metrics(study: Study, records: Records, name: str) -> list[Mapping[str, float]]:
    """Metrics of a variant's finished runs."""
    keys = [study.run(name, seed).key for seed in study.seeds]
    found = [records[key]["metrics"] for key in keys if key in records]
    return [metrics for metrics in found if metrics]


def _under(prefix: str, found: list[Mapping[str, float]]) -> list[str]:
    """What follows the prefix in metrics' names that all runs have."""
    shared = set.intersection(*(set(metrics) for metrics in found)) if found else set()
    return [name.removeprefix(prefix) for name in shared if name.startswith(prefix)]


def interval(value: Spread) -> str:
    """A mean with half the width of its interval."""
    return f"{value.mean:.2f}" + f" ± {value.half:.2f}" * (not math.isnan(value.half))


def difference_of(value: Spread) -> str:
    """A difference, with its sign, with half the width of its interval."""
    return f"{value.mean:+.2f}" + f" ± {value.half:.2f}" * (not math.isnan(value.half))
