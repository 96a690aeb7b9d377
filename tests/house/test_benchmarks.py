"""The benchmarks in small: rows that mean what they say, and one quick run to a record."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import tyro

from benchmarks import cycles, growth, inference, loading, memory, run, training, wrapper
from benchmarks._frame import Apart, Row, in_turn, ratio, seconds
from cycledistill_pose import create_model
from cycledistill_pose.data import check_coco_root


@pytest.mark.parametrize(
    ("value", "target", "at_least", "met"),
    [
        (1.2, 1.25, True, False),
        (1.3, 1.25, True, True),
        (1.2, 1.25, False, True),
        (1.3, 1.25, False, False),
        (1.3, None, False, None),
    ],
)
def test_a_target_has_a_side(
    value: float, target: float | None, at_least: bool, met: bool | None
) -> None:
    assert Row.of("name", [value], target=target, at_least=at_least).met is met


def test_calls_are_timed_in_turn() -> None:
    order: list[str] = []
    calls = {name: lambda name=name: order.append(name) or 2.0 for name in "abc"}  # type: ignore[misc]
    taken = in_turn(calls, 2, lambda call: call())
    assert "".join(order) in ("abccbaabc", "cbaabccba")
    assert taken == {"a": [2.0, 2.0], "b": [2.0, 2.0], "c": [2.0, 2.0]}
    assert ratio([1.0, 6.0], [2.0, 3.0], 2.0) == [1.0, 4.0]


def test_quick_run_without_data_for_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("CYCLEDISTILL_DATA", raising=False)
    out = tmp_path / "record.json"
    tyro.cli(run.main, args=["--quick", "--only", "loading", "codec", "--out", str(out)])
    shown = capsys.readouterr().out
    assert "DARK" in shown and "loading not measured: set CYCLEDISTILL_DATA" in shown
    record = json.loads(out.read_text())
    assert record["machine"]["torch"] and record["date"]
    assert len(record["results"]) == 3
    assert all(row["low"] <= row["value"] <= row["high"] for row in record["results"])
    assert [path.name for path in tmp_path.iterdir()] == ["record.json"]
    with pytest.raises(SystemExit, match="1"):
        run.main(("loading",), quick=True)


@pytest.mark.slow
def test_loading_is_timed_where_pixels_agree(
    shared_data: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "EPOCHS_COMPARED", 1)
    files = check_coco_root(shared_data("tiny_coco"), ["train"])["train"]
    ours, reduced = loading.differences(files, str(tmp_path))
    assert ours.value < 0.01 < reduced.value
    rows = {row.name: row for row in loading.ratios(files, str(tmp_path), 1, "cpu") if not row.unit}
    assert [row.target for row in rows.values() if row.target] == [2.0, 2.0, 8.0]
    assert all(row.value > 0 for row in rows.values())


class Here(Apart):
    """Another process's part, played here: starting one takes longer than what it measures."""

    def __init__(self, build: Callable[..., Callable[..., Any]], *args: Any) -> None:
        self.function = build(*args)

    def __call__(self, *args: Any) -> tuple[float, Any]:
        result: list[Any] = []
        return seconds(lambda: result.append(self.function(*args))), result[0]

    def __exit__(self, *_: object) -> None:
        pass


def test_what_runs_apart_runs_in_another_process() -> None:
    with Apart(functools.partial, os.getpid) as apart:
        spent, there = apart()
        assert 0 <= spent < 60 and there != os.getpid()
        assert apart()[1] == there  # one process for all calls


@pytest.mark.slow
def test_training_starts_from_the_same_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows are measured only where both sides' first losses agree."""
    monkeypatch.setattr(training, "Apart", Here)
    rows = list(training.of_model("sdpose_t", 1, 1, []))
    assert [row.target for row in rows] == [1.25, None]
    assert rows[0].at_least and rows[0].value > 0


@pytest.mark.slow
def test_memory_of_checkpoints_and_of_everything_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    cases = ("plain", "4 cycles, checkpointed by cycle", "4 cycles, everything kept")
    monkeypatch.setattr(memory, "CASES", {case: memory.CASES[case] for case in cases})
    monkeypatch.setattr(memory, "Apart", Here)
    values = {row.name: row.value for row in memory.of_model("tokenpose_nano", 4)}
    kept, checkpointed = (
        next(value for name, value in values.items() if "backward" in name and case in name)
        for case in ("everything kept", "checkpointed by cycle")
    )
    assert kept > 1.5 and checkpointed < kept


def test_cycles_wrapper_and_inference_in_small() -> None:
    nano = create_model("tokenpose_nano")
    rows = list(cycles.of_model("nano", nano, 1, nano.input_size, 1, peak=1e9))
    assert [row.name.split(": ")[1][:8] for row in rows[:3]] == ["2 cycles", "3 cycles", "4 cycles"]
    assert [row.target for row in rows] == [1.05, 1.05, 1.05, None, None]
    vit = timm.create_model("vit_tiny_patch16_224", img_size=32, embed_dim=16, num_heads=1, depth=2)
    assert [row.target for row in wrapper.of_model("ViT", vit, 1, False, size=32)] == [1.01, 1.01]
    rows = list(inference.of_model("sdpose_nano", 1, batches=(1,)))
    assert [row.unit for row in rows] == ["images/s"] and rows[0].value > 0


@pytest.mark.slow
def test_growth_in_small_is_drawn(tmp_path: Path) -> None:
    sizes = growth.Sizes((1, 2), (16, 32), (1, 2), "tokenpose_nano")
    points = list(growth.measure(2, sizes=sizes))
    assert [(point.curve, point.x) for point in points] == [
        ("cycles", 1), ("cycles", 2), ("tokens", 16), ("tokens", 32), ("batch", 1), ("batch", 2),
    ]  # fmt: skip
    assert all(min(point.value, *point.best.values()) > 0 for point in points)
    growth.draw(points, tmp_path, "growth")
    assert {path.name for path in tmp_path.iterdir() if path.stat().st_size > 5000} == {
        "growth-cycles.png", "growth-tokens.png", "growth-batch.png",
    }  # fmt: skip
