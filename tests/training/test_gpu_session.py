"""The script that a session with a GPU runs, tried without one."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import gpu_session


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Any:
    def run(*arguments: object) -> None:
        monkeypatch.setattr(sys, "argv", ["gpu_session.py", *map(str, arguments)])
        gpu_session.main()

    return run


@pytest.mark.slow
def test_trial_trains_examples_and_writes_a_page(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainings = gpu_session.TRAININGS.items()
    one_of_each = {name: t for name, t in trainings if t.script != "pose_regression.py"}
    monkeypatch.setattr(gpu_session, "TRAININGS", one_of_each)
    run("--smoke", "--out", tmp_path)
    page = (tmp_path / "gpu.md").read_text()
    assert "A trial of the script on a CPU: no figure here means anything." in page
    for script, steps in (("pose_coco", 4), ("deit_imagenet", 6)):
        folder = tmp_path / f"trial-of-{script.replace('_', '-')}-py"
        records = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
        (row,) = (line for line in page.splitlines() if line.startswith(f"| trial of {script}.py"))
        assert f"| 2 ({steps} steps) |" in row
        name = "accuracy/1" if script == "deit_imagenet" else "PCK/1"
        assert f"{name} {records[-1][name]:.2f}" in row
        assert f"python examples/{script}.py" in page
    assert "- MACs: " in page and str(tmp_path) not in page
    assert "test_fit.py" in page  # the tests that need a GPU, run or skipped
    run("--smoke", "--out", tmp_path, "--minutes", 0)  # no time: all of it kept
    assert (tmp_path / "gpu.md").read_text() == page


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without a GPU")
def test_needs_a_gpu(run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        run("--data", tmp_path, "--out", tmp_path / "out")
    assert stopped.value.code == 2
    assert "PyTorch sees no GPU; --smoke" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
