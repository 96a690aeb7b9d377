from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

# Programs, not test modules.
collect_ignore = ["runner.py", "toy.py"]

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


@pytest.fixture(scope="session")
def toy() -> ModuleType:
    """`toy.py`, which is a program for sub-processes as well."""
    spec = importlib.util.spec_from_file_location("training_toy", HERE / "toy.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["training_toy"] = module
    spec.loader.exec_module(module)
    return module


class Runner:
    """Runs `toy.py` in processes forked from one that has PyTorch loaded (`runner.py`)."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        assert self._answer() == "ready\n"

    def __call__(self, *args: object, **request: Any) -> tuple[list[int], str]:
        assert self._process.stdin is not None
        request["args"] = [arg if isinstance(arg, str) else _text(arg) for arg in args]
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._answer())
        return answer["codes"], answer["output"]

    def _answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()


def _text(argument: object) -> str:
    return json.dumps(argument) if isinstance(argument, dict) else str(argument)


@pytest.fixture(scope="session")
def runner() -> Iterator[Runner]:
    paths = [str(ROOT), str(HERE), os.environ.get("PYTHONPATH", "")]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        "OMP_NUM_THREADS": "1",
    }
    process = subprocess.Popen(
        [sys.executable, str(HERE / "runner.py")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    yield Runner(process)
    process.stdin.close()  # type: ignore[union-attr]
    process.wait(30)
