"""Work off runs of the quick loop: all seeds of a variant at once, teachers before students."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack

from experiments._image_run import ImageRun
from experiments._image_train import train_seeds
from experiments._results import Results, weights_file

_WAITING_SECONDS = 5.0


def run_seeds(configs: Sequence[ImageRun], results: Results, device: str = "auto") -> int:
    """Do the runs that nobody has done or is doing, and their teachers'; returns how many."""
    variants: dict[ImageRun, list[ImageRun]] = {}
    for config in configs:
        variants.setdefault(config.seeded(0), []).append(config)
    return sum(_run_variant(seeds, results, device) for seeds in variants.values())


def _run_variant(configs: list[ImageRun], results: Results, device: str) -> int:
    """The runs of a variant."""
    recorded = results.read()
    configs = [config for config in configs if config.key not in recorded]
    done = _make_teachers(configs, results, device) if configs else 0
    return done + _train_claimed(configs, results, device)


def _make_teachers(configs: list[ImageRun], results: Results, device: str) -> int:
    """Weights of all teachers; those that another process trains are waited for."""
    done = 0
    for own in zip(*(config.teachers for config in configs), strict=True):
        missing = [t for t in own if not weights_file(t.key, results.work).exists()]
        if missing:
            done += _make_teachers(missing, results, device)
        while missing:
            done += _train_claimed(missing, results, device, again=True)
            missing = [t for t in missing if not weights_file(t.key, results.work).exists()]
            if missing:
                time.sleep(_WAITING_SECONDS)
    return done


def _train_claimed(
    configs: Sequence[ImageRun], results: Results, device: str, again: bool = False
) -> int:
    """Train what can be claimed; ``again`` also what is recorded and whose weights are lost."""

    def missing(config: ImageRun) -> bool:
        return not weights_file(config.key, results.work).exists()

    with ExitStack() as claims:
        recorded = results.read()
        mine = [
            config
            for config in configs
            if claims.enter_context(results.claim(config.key))
            or (again and config.key in recorded and missing(config))
        ]
        if not mine:
            return 0
        start = time.perf_counter()
        records = train_seeds(mine, results.work, device)
        new = [record for record in records if record["key"] not in results.read()]
        for record in new:
            results.append(record)
        seconds = time.perf_counter() - start
        scores = [
            record["metrics"].get(f"val/{mine[0].metric}/{mine[0].used}") for record in records
        ]
        print(f"{seconds:6.0f} s  {mine[0].words()}, {len(mine)} seeds: {scores}", flush=True)
    return len(new)
