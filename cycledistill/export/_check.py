"""Comparing an exported file with its model."""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from cycledistill.export._formats import Runner
from cycledistill.export._graph import Graph, named_outputs

BATCH_SIZES = (1, 2, 5)


class ExportReport(NamedTuple):
    """What `export_model` wrote, and how far it is from the model.

    Attributes:
        path: The file.
        differences: For each kind of inputs (`"random"`, `"given"`), the largest absolute
            difference of each output, over all batch sizes.
        batch_sizes: The batch sizes that were tried.
    """

    path: Path
    differences: dict[str, dict[str, float]]
    batch_sizes: tuple[int, ...] = BATCH_SIZES

    @property
    def max_difference(self) -> float:
        """The largest of all differences; NaN where one is."""
        found = [value for outputs in self.differences.values() for value in outputs.values()]
        return math.nan if any(map(math.isnan, found)) else max(found)

    def __str__(self) -> str:
        sizes = ", ".join(map(str, self.batch_sizes))
        lines = [f"largest difference from torch, batches of {sizes}:"]
        for kind, outputs in self.differences.items():
            shown = ", ".join(f"{name} {value:.2g}" for name, value in outputs.items())
            lines.append(f"  {kind} inputs: {shown}")
        return "\n".join(lines)


@torch.no_grad()
def compare(
    graph: Graph, runner: Runner, inputs: tuple[Tensor, ...]
) -> dict[str, dict[str, float]]:
    """Largest absolute difference of each output, on random inputs and on the given ones.

    Args:
        graph: Gives the expected outputs.
        runner: The file, read back.
        inputs: The given inputs; their rows are repeated to fill a batch. For random inputs,
            floating-point values are replaced by normal ones of mean 0 and variance 1.
    """
    generator = torch.Generator().manual_seed(0)
    differences: dict[str, dict[str, float]] = {}
    for kind in ("random", "given"):
        largest: dict[str, float] = {}
        for size in BATCH_SIZES:
            batch = tuple(take_rows(value, size) for value in inputs)
            if kind == "random":
                batch = tuple(_random_like(value, generator) for value in batch)
            wanted, found = named_outputs(graph(*batch)), runner(batch)
            for name, value in wanted.items():
                pair = (largest.get(name, 0.0), _difference(name, value, found[name]))
                largest[name] = max(pair, key=lambda number: (math.isnan(number), number))
        differences[kind] = largest
    return differences


def take_rows(value: Tensor, size: int) -> Tensor:
    """A batch of the first `size` samples, repeated as often as needed."""
    return value[torch.arange(size) % value.shape[0]]


def _random_like(value: Tensor, generator: torch.Generator) -> Tensor:
    if not value.is_floating_point():
        return value
    return torch.randn(value.shape, generator=generator, dtype=torch.float32).to(value.dtype)


def _difference(name: str, wanted: Tensor, found: Tensor) -> float:
    if wanted.shape != found.shape:
        raise ValueError(
            f"the exported {name} has the shape {list(found.shape)}, the model's "
            f"{list(wanted.shape)}"
        )
    wanted, found = wanted.double(), found.double()
    same = (wanted == found) | (wanted.isnan() & found.isnan())  # infinities, too
    return float((wanted - found).abs().masked_fill(same, 0.0).max())
