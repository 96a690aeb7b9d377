"""Two runs in one folder, and processes that lose each other."""

from __future__ import annotations

import os
import signal
import socket
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from cycledistill.training import TrainingError
from cycledistill.training._output_dir import locked
from cycledistill.training.processes._communication import lost_processes_explained


def holder_of(folder: Path) -> tuple[int, int]:
    """A process that holds the lock, and a child of it that lives on, as a data worker does."""
    ready, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        with locked(folder):
            child = os.fork()
            if child:
                os.write(writer, b"%d\n" % child)
            time.sleep(60)
            os._exit(0)
    child = int(os.read(ready, 20))
    os.close(ready), os.close(writer)
    return pid, child


def test_two_runs_in_one_folder(toy: Any, tmp_path: Path) -> None:
    config = toy.default_config(tmp_path, epochs=1)
    pid, child = holder_of(tmp_path)
    try:
        with pytest.raises(ValueError) as caught:
            toy.train(config)
        assert f"another run is writing to output_dir {tmp_path}" in str(caught.value)
        assert f"process {pid} on {socket.gethostname()}" in str(caught.value)
        assert not (tmp_path / "log.jsonl").exists()
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.kill(child, 0)  # alive, and no obstacle
        assert toy.train(config).steps == 5
        assert toy.train(config).steps == 5
    finally:
        os.kill(child, signal.SIGKILL)


@pytest.mark.parametrize("lost", [0, 1])
def test_a_process_that_dies_does_not_leave_the_other_waiting(
    runner: Any, toy: Any, tmp_path: Path, lost: int
) -> None:
    codes, output = runner(
        tmp_path,
        *("--pause", 0.05),
        ranks=2,
        signal=signal.SIGKILL,
        wait_for="step 7/15",
        only=lost,
    )
    assert codes[lost] == -signal.SIGKILL and codes[1 - lost] == 1, (codes, output)
    assert "lost contact with another process of this run" in output
    assert "Traceback" not in output
    codes, output = runner(tmp_path, ranks=2)
    assert codes == [0, 0] and "continuing from" in output, output
    codes, output = runner(tmp_path / "whole", ranks=2)
    assert codes == [0, 0], output
    assert toy.losses(tmp_path) == toy.losses(tmp_path / "whole")


def test_data_error_on_one_process_ends_both(runner: Any, tmp_path: Path) -> None:
    """The one that failed says why, the other that it is alone; neither hangs."""
    codes, output = runner(tmp_path, "--unreadable", 5, ranks=2)
    assert codes == [1, 1], output
    assert "cannot read sample 5" in output and "lost contact with another process" in output
    assert "Traceback" not in output


def test_other_errors_are_left_as_they_are() -> None:
    with pytest.raises(RuntimeError, match="cannot be multiplied"), lost_processes_explained():
        torch.ones(2, 3) @ torch.ones(2, 3)
    with pytest.raises(TrainingError, match=r"^Connection closed$"), lost_processes_explained():
        raise TrainingError("Connection closed")
