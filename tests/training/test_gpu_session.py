"""The script that a session with a GPU runs, tried without one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[2] / "benchmarks/gpu_session.py"


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=400)


@pytest.mark.slow
def test_trial_trains_every_example_and_writes_a_page(tmp_path: Path) -> None:
    done = run("--smoke", "--out", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    page = (tmp_path / "gpu.md").read_text()
    assert "A trial of the script on a CPU: no figure here means anything." in page
    for script, steps in (("pose_coco", 4), ("pose_regression", 4), ("deit_imagenet", 6)):
        folder = tmp_path / f"trial-of-{script.replace('_', '-')}-py"
        records = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
        (row,) = (line for line in page.splitlines() if line.startswith(f"| trial of {script}.py"))
        assert f"| 2 ({steps} steps) |" in row
        name = "accuracy/1" if script == "deit_imagenet" else "PCK/1"
        assert f"{name} {records[-1][name]:.2f}" in row
        assert f"python examples/{script}.py" in page
    assert "- MACs: " in page and str(tmp_path) not in page
    assert "test_fit.py" in page  # the tests that need a GPU, run or skipped
    again = run("--smoke", "--out", tmp_path, "--minutes", 0)  # no time: all of it kept
    assert again.returncode == 0 and (tmp_path / "gpu.md").read_text() == page


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without a GPU")
def test_needs_a_gpu(tmp_path: Path) -> None:
    done = run("--data", tmp_path, "--out", tmp_path / "out")
    assert done.returncode == 2 and "PyTorch sees no GPU; --smoke" in done.stderr
    assert not (tmp_path / "out").exists()
