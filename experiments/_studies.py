"""The studies: which runs there are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from experiments._config import RunConfig


@dataclass(frozen=True)
class Study:
    """Variants of a run, each with the same seeds.

    Attributes:
        title: What it asks.
        variants: Configs by name; their seeds are replaced.
        seeds: Seeds of every variant.
        baselines: Variants that the others are compared with, seed by seed.
        split: What is reported: test, or val where something is chosen from it.
    """

    title: str
    variants: Mapping[str, RunConfig]
    seeds: tuple[int, ...]
    baselines: tuple[str, ...]
    split: Literal["val", "test"] = "test"

    def runs(self) -> list[RunConfig]:
        """All runs, seed by seed, so that a study that is stopped early has whole seeds."""
        return [replace(c, seed=seed) for seed in self.seeds for c in self.variants.values()]


_DIGITS = RunConfig(task="digits", mode="plain", epochs=400)

# Seeds of studies that choose something are not those of studies that report.
_CHOOSING = (100, 101)
_REPORTING = (0, 1, 2, 3, 4)

DIGITS_LENGTH = Study(
    title="From which length on does training the plain model twice as long no longer help?",
    variants={
        f"plain, {epochs} epochs": replace(_DIGITS, epochs=epochs)
        for epochs in (50, 100, 200, 400, 800)
    },
    seeds=_CHOOSING,
    baselines=("plain, 200 epochs",),
    split="val",
)

_LONG = _DIGITS
_PAPER = replace(_LONG, mode="distill")

DIGITS = Study(
    title="Does the method help on 500 digits, once the plain model is trained to the end?",
    variants={
        "plain": _LONG,
        "plain, twice the epochs": replace(_LONG, epochs=2 * _LONG.epochs),
        "plain, twice the blocks": replace(_LONG, depth=2 * _LONG.depth),
        "paper's recipe": _PAPER,
        "paper's recipe + prediction KL": replace(_PAPER, prediction_weight=1.0),
        "paper's recipe, mean of task losses": replace(_PAPER, task_cycles="mean"),
        "two cycles without distillation": replace(_LONG, mode="cycle"),
    },
    seeds=_REPORTING,
    baselines=("plain", "plain, twice the epochs"),
)

STUDIES = {"digits-length": DIGITS_LENGTH, "digits": DIGITS}
