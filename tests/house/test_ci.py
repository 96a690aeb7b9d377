"""What CI's entry does, and what the fixtures of all tests do."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

TESTS = """
import random, numpy as np, pytest, torch

def test_data(shared_data):
    assert shared_data("tiny_coco").name == "tiny_coco"

def test_missing_folder(shared_data):
    with pytest.raises(FileNotFoundError, match="CYCLEDISTILL_DATA=.* has no folder lspet/"):
        shared_data("lspet")

@pytest.mark.gpu
def test_gpu():
    assert torch.cuda.is_available()

@pytest.mark.parametrize("again", [0, 1])
def test_seed(again):
    drawn = [random.random(), np.random.rand(), torch.rand(()).item()]
    random.seed(again), np.random.seed(again), torch.manual_seed(again)
    if again == 0:
        test_seed.drawn = drawn
    assert drawn == test_seed.drawn
    assert torch.get_num_threads() == 1
"""


def test_ci_unpacks_the_data_and_makes_test(repository: Path, tmp_path: Path) -> None:
    entry = tmp_path / "project/.ci/run"
    entry.parent.mkdir(parents=True)
    shutil.copy(repository / ".ci/run", entry)
    assert os.access(entry, os.X_OK)
    unpack = tmp_path / "shared/data/unpack"
    unpack.parent.mkdir(parents=True)
    unpack.write_text('mkdir -p "$1/tiny_coco"\n')
    make = tmp_path / "bin/make"
    make.parent.mkdir()
    make.write_text('#!/bin/sh\necho "$@"; pwd; ls "$CYCLEDISTILL_DATA"; exit 7\n')
    make.chmod(0o755)
    environment = os.environ | {"PATH": f"{make.parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run([entry], env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.split() == ["test", str(tmp_path / "project"), "tiny_coco"]
    assert done.returncode == 7
    ignored = (repository / ".gitignore").read_text().split()
    assert {f"{path.name}/" for path in (tmp_path / "project").iterdir()} - {".ci/"} <= set(ignored)


def run_tests(folder: Path, **data: str) -> str:
    environment = {k: v for k, v in os.environ.items() if k != "CYCLEDISTILL_DATA"} | data
    command = [sys.executable, "-m", "pytest", "-rs", "-p", "no:cacheprovider", "-c", "pytest.ini"]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True
    ).stdout


@pytest.mark.slow
def test_fixtures(repository: Path, tmp_path: Path) -> None:
    shutil.copy(repository / "tests/conftest.py", tmp_path)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n    gpu\n")
    (tmp_path / "test_it.py").write_text(TESTS)
    gpu = int(torch.cuda.is_available())

    without = run_tests(tmp_path)
    assert "needs real data: set CYCLEDISTILL_DATA to the folder that has tiny_coco/" in without
    assert gpu or "needs a CUDA device" in without
    assert f"{2 + gpu} passed, {3 - gpu} skipped" in without

    (tmp_path / "tiny_coco").mkdir()
    assert f"{4 + gpu} passed" in run_tests(tmp_path, CYCLEDISTILL_DATA=str(tmp_path))
