"""The benchmarks' frame: targets on either side, and one quick run to a table and a record."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks import run
from benchmarks.comparison import Comparison


@pytest.mark.parametrize(
    ("ratio", "at_least", "met", "target"),
    [
        (1.2, True, False, ">= 1.25 x it"),
        (1.3, True, True, ">= 1.25 x it"),
        (1.2, False, True, "<= 1.25 x it"),
        (1.3, False, False, "<= 1.25 x it"),
    ],
)
def test_a_limit_has_a_side(ratio: float, at_least: bool, met: bool, target: str) -> None:
    row = Comparison("name", ratio, ratio, ratio, 1.25, "it", at_least)
    assert (row.met, row.target) == (met, target)


def test_without_a_limit_there_is_no_target() -> None:
    row = Comparison("name", 1.0, 1.0, 1.0)
    assert (row.met, row.target) == (True, "")


def test_quick_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "record.json"
    command = ["run.py", "--quick", "--only", "codec", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", command)
    run.main()
    assert "DARK" in capsys.readouterr().out
    record = json.loads(out.read_text())
    assert record["machine"]["torch"] and record["date"] and record["rounds"] == 3
    assert len(record["results"]) == 3
    assert all(row["ratio"] > 0 and row["low"] <= row["high"] for row in record["results"])
    assert [path.name for path in tmp_path.iterdir()] == ["record.json"]
