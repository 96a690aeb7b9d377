"""Results on the disk: a JSON line for each finished run, weights, and claims to other runs."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from safetensors.torch import save_file
from torch import Tensor


def weights_file(key: str, work: Path) -> Path:
    """Where the weights of a finished run stand, of those that keep them."""
    return work / "weights" / f"{key}.safetensors"


def save_weights(weights: Mapping[str, Tensor], file: Path, about: dict[str, str] | None) -> None:
    """Write tensors, and texts about them, as a safetensors file that appears whole."""
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_suffix(f".{os.getpid()}")
    save_file({name: value.contiguous() for name, value in weights.items()}, temporary, about)
    os.replace(temporary, file)


def replace_file(path: Path, content: bytes) -> None:
    """Write a file that appears whole."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(content)
    os.replace(temporary, path)


class Results:
    """The records of a study, shared by all processes that work on it.

    Claims and writes hold a lock of the operating system, which ends with the process that holds
    it: what a killed process had claimed is free at once, and no lock has to be judged stale.

    A run that two studies have in common is recorded in one of their files and known to both.

    Args:
        path: ``<study>.jsonl``, beside those of other studies.
        work: Folder of locks and unfinished runs.
    """

    def __init__(self, path: Path, work: Path) -> None:
        self.path = path
        self.work = work

    def read(self) -> dict[str, dict[str, Any]]:
        """Records of all studies by key. The rest of a line that a crash cut off is none.

        Raises:
            ValueError: A complete line is not a record.
        """
        found = {}
        for path in sorted(self.path.parent.glob("*.jsonl")):
            *lines, _ = path.read_text("utf-8").split("\n")
            for number, line in enumerate(lines, 1):
                try:
                    record = json.loads(line)
                    found[record["key"]] = record
                except (ValueError, KeyError, TypeError) as error:
                    raise ValueError(f"{path}:{number} is no record of a run: {error}") from error
        return found

    def append(self, record: dict[str, Any]) -> None:
        """Add a record, after cutting off what a crash left of one."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.work.mkdir(parents=True, exist_ok=True)
        line = json.dumps(record).encode() + b"\n"
        with FileLock(self.work / "results.lock"), open(self.path, "a+b") as file:
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)
            file.write(line)
            file.flush()
            os.fsync(file.fileno())

    @contextmanager
    def claim(self, key: str) -> Iterator[bool]:
        """Whether the run is this process's to do: not recorded, and not claimed by another."""
        self.work.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.work / f"{key}.lock", timeout=0)
        try:
            lock.acquire()
        except Timeout:
            yield False
            return
        try:
            yield key not in self.read()
        finally:
            lock.release()
