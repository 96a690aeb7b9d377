"""Trained networks of earlier runs."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from cycledistill import CycleWrapper
from cycledistill.saving._folder import read_config
from cycledistill.training._config_file import read_mapping
from cycledistill.training._cycled_config import cycles_in_use


class TrainedRun(NamedTuple):
    """What `find_trained` found.

    Attributes:
        network: Folder of the plain network.
        cycles: Cycles to use it with.
        options: The run's options; empty if there is only the network.
    """

    network: Path
    cycles: int
    options: dict[str, Any]

    @property
    def digest(self) -> str:
        """Of the weights, for ``fit(settings=...)``: a run goes on with the teacher that it had."""
        weights = (self.network / "model.safetensors").read_bytes()
        return hashlib.sha256(weights).hexdigest()[:16]


def find_trained(folder: Path) -> TrainedRun:
    """Find the network of a finished run.

    Args:
        folder: The run's ``output_dir``, with ``config.yaml`` and ``plain/``; or a folder with
            just ``model.safetensors`` and ``config.json``, whose ``num_cycles`` counts (1).

    Raises:
        FileNotFoundError: It is neither.
        ValueError: Its ``config.yaml`` is no YAML mapping.
    """
    options: dict[str, Any] = {}
    if (folder / "config.yaml").is_file():
        options = read_mapping(folder / "config.yaml")
    network = folder / "plain" if options else folder
    if not (network / "model.safetensors").is_file():
        raise FileNotFoundError(
            f"{network} has no model.safetensors: expected the folder of a finished run, with "
            "config.yaml and plain/, or that of a saved network"
        )
    if options:
        cycles = cycles_in_use(options.get("mode", "plain"), options.get("num_cycles", 1))
    else:
        cycles = read_config(network, "network").get("num_cycles", 1)
    return TrainedRun(network, cycles, options)


def start_from(student: nn.Module, teacher: CycleWrapper, folder: Path) -> None:
    """Give a plain student the weights of its teacher.

    Args:
        student: The plain model.
        teacher: The teacher, wrapped.
        folder: Where the teacher is from, for errors.

    Raises:
        ValueError: They differ in size.
    """
    try:
        student.load_state_dict(teacher.state_dict())
    except RuntimeError as error:
        raise ValueError(
            f"the student cannot start from the weights of {folder}, which is another network; use "
            "--no-warm-start, or a student of the same size"
        ) from error
