"""log.jsonl: one JSON object for each logged step, evaluation and incident."""

from __future__ import annotations

import datetime
import json
import math
import platform
import socket
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from cycledistill.saving._files import flush_to_disk, naming, replacing

# What one microbatch adds to a mean: its number of samples (the weight), and its terms.
WindowEntry = tuple[float, dict[str, float]]


class RunLog:
    """Append-only log; a resumed run continues it as if it had never stopped.

    Every record has ``event`` ("start", "train", "evaluate" or "incident"), ``step`` (steps done)
    and ``epoch`` (from 0). Numbers that are not finite are written as null.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def start(self, step: int, evaluated: bool, copy_from: Path | None = None) -> None:
        """Open the log, without its records after ``step``.

        Args:
            step: Steps done by the checkpoint that is resumed; 0 for a new run.
            evaluated: Whether the checkpoint has the evaluation after this step.
            copy_from: Log of the run that is continued, used if there is none here.
        """
        source = copy_from if copy_from is not None and not self.path.exists() else self.path
        records, damage = _read(source) if step > 0 and source.exists() else ([], "")
        if damage:
            warnings.warn(f"{damage}; it and what follows is cut off", stacklevel=2)
        with replacing(self.path) as file:
            for record in records:
                later = record["step"] - step
                if later < 0 or (later == 0 and (evaluated or record["event"] != "evaluate")):
                    file.write(json.dumps(record) + "\n")
        self._file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115, closed in close()

    def write(self, record: Mapping[str, Any]) -> None:
        """Append one record."""
        with naming(self.path):
            self._file.write(json.dumps({key: _plain(item) for key, item in record.items()}) + "\n")
            self._file.flush()

    def sync(self) -> None:
        """Return when all records are on the disk."""
        with naming(self.path):
            flush_to_disk(self._file)

    def close(self) -> None:
        """Close the file."""
        with naming(self.path):
            self._file.close()


def read_log(path: str | Path) -> list[dict[str, Any]]:
    """Records of a ``log.jsonl``, without a last line that a crash cut short.

    Raises:
        ValueError: Another line is not a log record.
    """
    records, damage = _read(Path(path))
    if damage:
        raise ValueError(damage)
    return records


def environment(summary: Mapping[str, str]) -> dict[str, Any]:
    """When, where and with what a run starts or is continued."""
    now = datetime.datetime.now(datetime.timezone.utc)
    return {
        "time": now.isoformat(timespec="seconds"),
        "host": socket.gethostname(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "summary": dict(summary),
    }


def _read(path: Path) -> tuple[list[dict[str, Any]], str]:
    """The records before the first damaged line, and what is wrong with it ("" for the last)."""
    records: list[dict[str, Any]] = []
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    for number, line in enumerate(lines, start=1):
        if not line:
            continue
        try:
            record = json.loads(line)
            record["step"]
        except (ValueError, TypeError, KeyError):
            if number == len(lines):
                break
            return records, f"{path}, line {number}: no log record: {line[:80]!r}"
        records.append(record)
    return records, ""


def window_means(window: Iterable[WindowEntry]) -> dict[str, float]:
    """Weighted mean of each term, the loss first and the gradient's norm last.

    Sums are exact, so the order of the entries does not matter.

    Example:
        >>> window_means([(1, {"loss": 1.0}), (3, {"loss": 2.0})])
        {'loss': 1.75}
    """
    weights: dict[str, list[float]] = {}
    products: dict[str, list[float]] = {}
    for weight, terms in window:
        for name, value in terms.items():
            weights.setdefault(name, []).append(weight)
            products.setdefault(name, []).append(weight * value)
    names = sorted(weights, key=lambda name: (name != "loss", name == "grad_norm", name))
    return {name: math.fsum(products[name]) / math.fsum(weights[name]) for name in names}


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
