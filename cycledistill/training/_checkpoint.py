"""Checkpoints that are complete or absent."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from cycledistill._files import flush_to_disk, sync_folder
from cycledistill.training._errors import CheckpointError
from cycledistill.training._state import load_module_state

FORMAT = 1
STATE_FILE = "state.pt"
META_FILE = "meta.json"


class Checkpoint(NamedTuple):
    """A checkpoint that was read and found whole."""

    folder: Path
    state: dict[str, Any]


class CheckpointStore:
    """The folder of a run's checkpoints, ``step-00000123/{state.pt, meta.json}`` each.

    A checkpoint is written under a temporary name, forced to the disk and then renamed, so that
    one with its final name is complete; ``meta.json`` holds the SHA-256 by which later damage is
    noticed.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, step: int) -> Path:
        """Where the checkpoint of ``step`` stands."""
        return self.folder / f"step-{step:08d}"

    def steps(self) -> list[int]:
        """Steps of which there are checkpoints, ascending."""
        names = self.folder.glob("step-*") if self.folder.is_dir() else ()
        return sorted(int(p.name[5:]) for p in names if p.name[5:].isdigit())

    def save(self, step: int, state: dict[str, Any], meta: Mapping[str, Any]) -> Path:
        """Write the checkpoint of ``step``; an older one of the same step is replaced.

        Raises:
            CheckpointError: It could not be written (full disk); nothing else was touched.
            TypeError: The state holds something that cannot be loaded with ``weights_only=True``.
        """
        _require_plain(state, "state")
        target = self.path(step)
        temporary = self.folder / f".writing-{target.name}-{os.getpid()}"
        try:
            temporary.mkdir(parents=True)
            digest = _write_state(temporary / STATE_FILE, state)
            with open(temporary / META_FILE, "w", encoding="utf-8") as file:
                json.dump({"format": FORMAT, "step": step, **digest, **meta}, file, indent=1)
                flush_to_disk(file)
            sync_folder(temporary)
            if target.exists():
                self._remove(target)
            os.rename(temporary, target)
            sync_folder(self.folder)
        except OSError as error:
            shutil.rmtree(temporary, ignore_errors=True)
            others = [known for known in self.steps() if known != step]
            earlier = f"{self.path(others[-1])} is intact" if others else "there is no earlier one"
            raise CheckpointError(
                f"could not save the checkpoint of step {step} in {self.folder}: "
                f"{error.strerror or error}; {earlier}. Make room, then run the same command again"
            ) from error
        return target

    def newest(self) -> Checkpoint | None:
        """The newest whole checkpoint; each broken one that is passed over gives a warning."""
        for step in reversed(self.steps()):
            try:
                return read_checkpoint(self.path(step))
            except CheckpointError as error:
                warnings.warn(f"{error}; trying the one before", stacklevel=2)
        return None

    def prune(self, keep: int, best_step: int | None) -> None:
        """Delete all but the newest ``keep`` and the best."""
        for step in self.steps()[:-keep]:
            if step != best_step:
                self._remove(self.path(step))

    def set_aside(self, step: int) -> list[Path]:
        """Rename checkpoints later than ``step``, from which the run now takes another way."""
        moved = []
        for later in self.steps():
            if later > step:
                path = self.path(later)
                target = path.with_name(f"superseded-{path.name}")
                shutil.rmtree(target, ignore_errors=True)
                moved.append(path.rename(target))
        return moved

    def sweep(self) -> None:
        """Delete what a killed run left half written or half deleted."""
        for leftover in (*self.folder.glob(".writing-*"), *self.folder.glob(".deleting-*")):
            shutil.rmtree(leftover, ignore_errors=True)

    def _remove(self, path: Path) -> None:
        doomed = self.folder / f".deleting-{path.name}-{os.getpid()}"
        os.rename(path, doomed)
        shutil.rmtree(doomed, ignore_errors=True)


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
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"checkpoint {folder} is broken: {error}") from error
    except (RuntimeError, EOFError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"checkpoint {folder} is broken: {error}") from error
    return Checkpoint(folder, state)


def load_weights(checkpoint: str | Path, model: nn.Module, average: bool = True) -> None:
    """Put a checkpoint's weights into a model.

    Args:
        checkpoint: Folder of the checkpoint, such as ``result.best.checkpoint``.
        model: The model as it was given to ``fit`` (a ``CycleWrapper``, usually).
        average: Take the moving average where the run kept one, as the evaluation did.

    Raises:
        CheckpointError: The checkpoint is broken.
        FileNotFoundError: There is none.
        ValueError: It is of another model.
    """
    folder = Path(checkpoint)
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no checkpoint folder {folder}")
    state = read_checkpoint(folder).state
    weights: dict[str, Tensor] | None = state["average"] if average else None
    if weights is None:
        prefix = "model."
        weights = {
            name[len(prefix) :]: tensor
            for name, tensor in state["module"].items()
            if name.startswith(prefix)
        }
    load_module_state(model, weights, f"checkpoint {folder}")


class _HashingFile:
    """Passes writes on and hashes them; keeps the first error for later.

    The zip writer of ``torch.save`` does not survive an exception from the file it writes to, so
    a full disk is reported after it is done.
    """

    def __init__(self, file: Any) -> None:
        self.file = file
        self.sha256 = hashlib.sha256()
        self.size = 0
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        if self.error is None:
            try:
                self.file.write(data)
            except OSError as error:
                self.error = error
        self.sha256.update(data)
        length = memoryview(data).nbytes
        self.size += length
        return length

    def flush(self) -> None:
        """Nothing to do: the file is flushed when it is complete."""


def _write_state(path: Path, state: dict[str, Any]) -> dict[str, Any]:
    with open(path, "wb") as file:
        hashing: Any = _HashingFile(file)
        torch.save(state, hashing)
        if hashing.error is not None:
            raise hashing.error
        flush_to_disk(file)
    return {"sha256": hashing.sha256.hexdigest(), "bytes": hashing.size}


def _digest(file: Any) -> str:
    sha256 = hashlib.sha256()
    while chunk := file.read(1 << 20):
        sha256.update(chunk)
    return sha256.hexdigest()


def _require_plain(value: Any, where: str) -> None:
    if isinstance(value, Mapping):
        for key, item in value.items():
            _require_plain(item, f"{where}[{key!r}]")
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            _require_plain(item, f"{where}[{index}]")
    elif value is not None and not isinstance(value, (Tensor, str, bytes, int, float, bool)):
        raise TypeError(
            f"{where} is a {type(value).__module__}.{type(value).__qualname__}; checkpoints hold "
            "tensors, numbers, texts and lists and dicts of them only"
        )
