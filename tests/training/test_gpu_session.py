"""The script that a session with a GPU runs, tried without one."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest
import torch
import tyro

from benchmarks import gpu_session
from cycledistill.training import parse_cli


@pytest.mark.slow
def test_trial_trains_an_example_and_writes_a_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainings = gpu_session.TRAININGS.items()
    one = {name: t for name, t in trainings if t.script == "deit_imagenet.py"}
    monkeypatch.setattr(gpu_session, "TRAININGS", one)
    tyro.cli(gpu_session.main, args=["--smoke", "--out", str(tmp_path)])
    page = (tmp_path / "gpu.md").read_text()
    assert "A trial of the script on a CPU: no figure here means anything." in page
    log = (tmp_path / "trial-of-deit-imagenet-py" / "log.jsonl").read_text()
    last = json.loads(log.splitlines()[-1])
    (row,) = (line for line in page.splitlines() if line.startswith("| trial of deit_imagenet.py"))
    assert "| 2 (6 steps) |" in row and f"accuracy/1 {last['accuracy/1']:.2f}" in row
    assert "python examples/deit_imagenet.py" in page
    assert str(tmp_path) not in page
    assert "test_fit.py" in page  # the tests that need a GPU, run or skipped
    gpu_session.main(smoke=True, out=tmp_path, minutes=0)  # no time: all of it kept
    assert (tmp_path / "gpu.md").read_text() == page


@pytest.mark.parametrize("name", gpu_session.TRAININGS)
def test_options_are_those_of_the_example(name: str) -> None:
    training = gpu_session.TRAININGS[name]
    presets = importlib.import_module(Path(training.script).stem).PRESETS
    for options in (training.options, training.smoke):
        config = parse_cli(type(next(iter(presets.values()))), presets, "paper", options.split())
        config.validate()
    assert config.epochs == 2


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without a GPU")
def test_needs_a_gpu(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"PyTorch sees no GPU; --smoke"):
        gpu_session.main(tmp_path, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
