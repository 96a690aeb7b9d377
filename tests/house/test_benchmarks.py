"""The benchmarks' frame: targets on either side, and one quick run to a table and a record."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import timm
import torch

from benchmarks import (
    cycle_cost,
    growth,
    growth_pictures,
    images_per_second,
    memory,
    run,
    straight_training,
    wrapper_in_use,
)
from benchmarks.comparison import Comparison
from cycledistill_pose import create_model


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


def test_without_data_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("CYCLEDISTILL_DATA", raising=False)
    command = ["run.py", "--quick", "--only", "input", "codec", "--out", str(tmp_path / "r.json")]
    monkeypatch.setattr(sys, "argv", command)
    run.main()
    assert "not measured: set CYCLEDISTILL_DATA" in capsys.readouterr().out
    assert len(json.loads((tmp_path / "r.json").read_text())["results"]) == 3
    monkeypatch.setattr(sys, "argv", ["run.py", "--only", "input"])
    with pytest.raises(SystemExit, match="1"):
        run.main()


@pytest.mark.slow
def test_training_starts_from_the_same_loss() -> None:
    """The rows are measured only where both sides' first losses agree."""
    rows = list(straight_training.of_model("SDPose-T", "sdpose_t", 1, rounds=2))
    assert len(rows) == 1 and rows[0].at_least and rows[0].ratio > 0


@pytest.mark.slow
def test_memory_of_checkpoints_and_of_everything_kept() -> None:
    rows = list(memory.of_model("tokenpose_nano", 4, rounds=2))
    ratios = {row.name: row.ratio for row in rows if isinstance(row, Comparison)}
    kept, checkpointed = (
        next(value for name, value in ratios.items() if "backward" in name and case in name)
        for case in ("everything kept", "checkpointed by cycle")
    )
    assert kept > 1.5 and checkpointed < kept


def test_cycles_in_turn() -> None:
    torch.manual_seed(0)
    model = create_model("tokenpose_nano")
    rows = cycle_cost.of_model("nano", model, torch.randn(1, 3, 128, 96), rounds=2)
    assert [row.name.split(": ")[1][:8] for row in rows] == ["2 cycles", "3 cycles", "4 cycles"]
    assert all(row.ratio > 0 and row.limit == 1.05 for row in rows)


def test_wrapper_and_images_in_small() -> None:
    vit = timm.create_model("vit_tiny_patch16_224", img_size=32, embed_dim=16, num_heads=1, depth=2)
    rows = list(wrapper_in_use.of_model("ViT", vit, 2, compiled=False, size=32))
    assert [row.limit for row in rows] == [1.01, 1.01]
    figures = list(images_per_second.of_model("sdpose_nano", {1: 2}))
    assert len(figures) == 1 and figures[0].value > 0


@pytest.mark.slow
def test_growth_in_small_is_drawn(tmp_path: Path) -> None:
    sizes = growth.Sizes((1, 2), (16, 32), (1, 2), (0, 1), (1,), "tokenpose_nano", people=4)
    names = []
    for series in growth.all_series(2, sizes):
        names.append(series.name)
        assert len(series.values) == len(series.x) and min(series.values) > 0
        assert all(len(limit) == len(series.x) for limit in series.limits.values())
        growth_pictures.draw(series, tmp_path / f"{series.name}.png")
        assert (tmp_path / f"{series.name}.png").stat().st_size > 5000
    assert names == ["cycles", "tokens", "batch", "workers", "processes"]
