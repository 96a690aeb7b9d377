"""What a study is: variants of a run and their seeds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from experiments._config import TEACHER_SEED, RunConfig
from experiments._image_run import ImageRun
from experiments._pointers import PointerRun
from experiments._retrofit import RetrofitRun

Run = RunConfig | ImageRun | PointerRun | RetrofitRun

# Seeds of studies that choose something are not those of studies that report.
CHOOSING = (100, 101)
REPORTING = (0, 1, 2, 3, 4)

# The people's network, which old and new studies have in common.
LSPET_PLAIN = RunConfig(
    task="lspet", mode="plain", epochs=60, width=96, depth=4, batch_size=64, lr=1e-3
)


@dataclass(frozen=True)
class Headline:
    """What the table on top of the page takes from a study.

    Attributes:
        network: The network and its images.
        grown: The variant with several cycles in use.
        folded: The variant that is taught by it and used with one.
    """

    network: str
    grown: str
    folded: str


@dataclass(frozen=True)
class Study:
    """Variants of a run, each with the same seeds.

    Attributes:
        title: What it asks.
        variants: Configs by name; their seeds are replaced.
        seeds: Seeds of every variant.
        baselines: Variants that the others are compared with, seed by seed.
        split: What is reported: test, or val where something is chosen from it.
        plot: Quality against the cost of training, every variant's difference to the first
            baseline, or quality against the cycles in use.
        teachers: Variants that are teachers of others, and are shown with those seeds of theirs.
        deep: The variant that others' last cycles are compared with, where several are in use.
        headline: What the table on top of the page takes from it.
        kept: Variants of the quick loop whose weights are kept in the repository, of one seed.
    """

    title: str
    variants: Mapping[str, Run]
    seeds: tuple[int, ...] = REPORTING[:3]
    baselines: tuple[str, ...] = ("plain", "plain, twice the epochs")
    split: Literal["val", "test"] = "test"
    plot: Literal["cost", "differences", "cycles"] = "cost"
    teachers: tuple[str, ...] = ()
    deep: str | None = None
    headline: Headline | None = None
    kept: tuple[str, ...] = ()

    @property
    def metric(self) -> str:
        """Name of the score."""
        return next(iter(self.variants.values())).metric

    @property
    def score(self) -> str:
        """Name and unit of the score."""
        return self.metric + ", %" * (self.metric != "perplexity")

    def runs(self) -> list[Run]:
        """All runs, seed by seed, so that a study that is stopped early has whole seeds."""
        return [self.run(name, seed) for seed in self.seeds for name in self.variants]

    def run(self, name: str, seed: int) -> Run:
        """A variant with a seed of the study."""
        return self.variants[name].seeded(seed + TEACHER_SEED * (name in self.teachers))
