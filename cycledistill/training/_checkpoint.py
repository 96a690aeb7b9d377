"""Checkpoints that are complete or absent."""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from cycledistill.saving._files import (
    flush_to_disk,
    replacing,
    replacing_folder,
    sync_folder,
)
from cycledistill.training._errors import CheckpointError
from cycledistill.training._sharding import load_module_state

FORMAT = 2
STATE_FILE = "state.pt"
META_FILE = "meta.json"
_OURS = {STATE_FILE: "", META_FILE: ""}


class Checkpoint(NamedTuple):
    """A complete checkpoint that was read: its tensors, and its ``meta.json``."""

    folder: Path
    state: dict[str, Any]
    meta: dict[str, Any]


class CheckpointStore:
    """The folder of a run's checkpoints, ``step-00000123/{state.pt, meta.json}`` each.

    A checkpoint is written under a temporary name, forced to the disk and then renamed, so that
    one with its final name is complete; ``meta.json`` holds the SHA-256 by which later damage is
    noticed, and the evaluations so far.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, step: int) -> Path:
        """The folder of the checkpoint of ``step``, which may not exist yet."""
        return self.folder / f"step-{step:08d}"

    def steps(self) -> list[int]:
        """Steps of which there are checkpoints, ascending."""
        names = self.folder.glob("step-*") if self.folder.is_dir() else ()
        return sorted(int(p.name[5:]) for p in names if p.name[5:].isdigit())

    def save(self, step: int, state: dict[str, Any], meta: Mapping[str, Any]) -> None:
        """Write the checkpoint of ``step``; an older one of the same step is replaced.

        Raises:
            CheckpointError: It could not be written (full disk); nothing else was touched.
            TypeError: The state holds something that cannot be loaded with ``weights_only=True``.
        """
        try:
            with replacing_folder(self.path(step), _OURS) as folder:
                torch.save(state, folder / STATE_FILE)
                with open(folder / STATE_FILE, "rb+") as file:
                    flush_to_disk(file)
                    about = {"format": FORMAT, "step": step, "sha256": _digest(file)}
                torch.load(folder / STATE_FILE, mmap=True, weights_only=True)
                with replacing(folder / META_FILE) as file:
                    json.dump({**about, **meta}, file, indent=1)
            sync_folder(self.folder)
        except pickle.UnpicklingError as error:
            raise TypeError(
                "the state of the run (of the schedule or the optimiser) holds more than tensors, "
                f"numbers, texts, lists and dicts: {error}"
            ) from error
        except (OSError, RuntimeError) as error:  # torch's writer raises the latter
            free = shutil.disk_usage(self.folder if self.folder.exists() else ".").free
            others = [known for known in self.steps() if known != step]
            earlier = f"{self.path(others[-1])} is intact" if others else "there is no earlier one"
            raise CheckpointError(
                f"could not save the checkpoint of step {step} in {self.folder}, with "
                f"{free / 2**20:.0f} MiB free: {error}; {earlier}. Make room, then run the same "
                "command again"
            ) from error

    def note(self, step: int, meta: Mapping[str, Any]) -> None:
        """Change what the checkpoint of ``step`` says beside its state."""
        path = self.path(step) / META_FILE
        known = json.loads(path.read_text(encoding="utf-8"))
        with replacing(path) as file:
            json.dump({**known, **meta}, file, indent=1)

    def newest(self) -> Checkpoint | None:
        """The newest intact checkpoint; warns of each broken one that is passed over.

        Raises:
            CheckpointError: All of them are broken.
        """
        steps = self.steps()
        for step in reversed(steps):
            try:
                return read_checkpoint(self.path(step))
            except CheckpointError as error:
                warnings.warn(f"{error}; trying the one before", stacklevel=2)
        if steps:
            raise CheckpointError(
                f"all checkpoints in {self.folder} are broken (the warnings above say how); delete "
                "the folder to start anew"
            )
        return None

    def prune(self, keep: int, best_step: int | None) -> None:
        """Delete all but the newest ``keep`` and the best."""
        for path in (self.path(step) for step in self.steps()[:-keep] if step != best_step):
            doomed = path.rename(path.with_name(f".{path.name}-deleted"))
            shutil.rmtree(doomed, ignore_errors=True)

    def set_aside(self, step: int) -> list[Path]:
        """Rename the checkpoints after ``step``, which the run that continues there replaces."""
        moved = []
        for path in (self.path(later) for later in self.steps() if later > step):
            target = path.with_name(f"superseded-{path.name}")
            shutil.rmtree(target, ignore_errors=True)
            moved.append(path.rename(target))
        return moved

    def sweep(self) -> None:
        """Delete what a killed run left half written or half deleted."""
        for leftover in (*self.folder.glob(".step-*"), *self.folder.glob("step-*/.*")):
            shutil.rmtree(leftover, ignore_errors=True)


def read_checkpoint(folder: Path) -> Checkpoint:
    """Read a checkpoint and check it against its SHA-256.

    Raises:
        CheckpointError: It is incomplete or damaged, or of another format.
    """
    try:
        meta = json.loads((folder / META_FILE).read_text(encoding="utf-8"))
        if meta["format"] != FORMAT:
            raise CheckpointError(
                f"checkpoint {folder} has format {meta['format']}, this version reads {FORMAT}"
            )
        with open(folder / STATE_FILE, "rb") as file:
            found = _digest(file)
            if found != meta["sha256"]:
                raise CheckpointError(
                    f"checkpoint {folder} is broken: {STATE_FILE} is not what was written "
                    f"(SHA-256 {found[:12]}..., {META_FILE} says {meta['sha256'][:12]}...)"
                )
            file.seek(0)
            state = torch.load(file, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except (
        *(OSError, ValueError, KeyError, TypeError, RuntimeError, EOFError),
        *(pickle.UnpicklingError, zipfile.BadZipFile),
    ) as error:
        raise CheckpointError(f"checkpoint {folder} is broken: {error}") from error
    return Checkpoint(folder, state, meta)


def load_weights(checkpoint: str | Path, model: nn.Module, average: bool = True) -> None:
    """Put a checkpoint's weights into a model.

    Args:
        checkpoint: Folder of the checkpoint, such as ``result.best.checkpoint``.
        model: The model as it was given to ``fit`` (a ``CycleWrapper``, usually).
        average: Take the moving average where the run kept one, as the evaluation did.

    Raises:
        CheckpointError: The checkpoint is broken.
        FileNotFoundError: There is none.
        ValueError: It belongs to another model.
    """
    folder = Path(checkpoint)
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no checkpoint folder {folder}")
    state = read_checkpoint(folder).state
    weights = state["average"] if average else None
    if weights is None:
        weights = {
            name.removeprefix("model."): tensor
            for name, tensor in state["module"].items()
            if name.startswith("model.")
        }
    load_module_state(model, weights, f"checkpoint {folder}")


def _digest(file: Any) -> str:
    sha256 = hashlib.sha256()
    while chunk := file.read(1 << 20):
        sha256.update(chunk)
    return sha256.hexdigest()
