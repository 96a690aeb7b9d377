"""Trained classifiers of earlier runs: teachers, and rows of a comparison."""

from __future__ import annotations

from pathlib import Path

from cycledistill import CycleWrapper
from cycledistill.training import find_trained
from cycledistill_deit._export import load_plain


def load_trained(folder: Path) -> CycleWrapper:
    """The network of a finished run, wrapped with as many cycles as it is meant to be used with.

    Args:
        folder: See `cycledistill.training.find_trained`.

    Raises:
        FileNotFoundError: It has no network.
    """
    network, cycles, options = find_trained(folder)
    return CycleWrapper(load_plain(network), num_cycles=cycles, blocks=options.get("blocks"))
