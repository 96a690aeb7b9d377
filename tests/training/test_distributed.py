"""Two processes compute what one does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

LINEAR = {"dropout": 0.0, "min_cycles": 1, "augment": True}


def final(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    saved = torch.load(path, weights_only=True)
    return saved["state"], saved["metrics"]


def run(runner: Any, folder: Path, ranks: int, options: dict[str, Any], **extra: Any) -> Any:
    environment = extra.pop("environment", {})
    sharded = options.get("parallel") == "fsdp2" or "FSDP_VERSION" in environment
    if sharded and torch.__version__ < "2.7":
        pytest.skip("torch 2.6 cannot shard on CPUs")
    saved = folder / "final.pt"
    codes, output = runner(
        folder,
        "--save",
        saved,
        "--options",
        options,
        "--train-options",
        {**LINEAR, **extra},
        "--seed-by-rank",  # the main process's weights count
        ranks=ranks,
        environment=environment,
    )
    assert codes == [0] * ranks, output
    return final(saved), output


@pytest.mark.parametrize(
    ("options", "extra"),
    [
        # 37 samples in batches of 9: the last batch of each epoch has one sample, so that the
        # second process has none.
        pytest.param({"batch_size": 9, "epochs": 4}, {}, id="uneven and empty shares"),
        pytest.param(
            {
                "batch_size": 9,
                "epochs": 4,
                "accumulate": 2,
                "repeated_augmentation": 3,
                "device": "cpu" if torch.cuda.is_available() else "auto",
            },
            {},
            id="accumulation",
        ),
        pytest.param({"batch_size": 8, "ema_decay": None, "parallel": "fsdp2"}, {}, id="fsdp2"),
        pytest.param(
            {"batch_size": 9, "epochs": 4},
            {"environment": {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}},
            id="fsdp2 with ema, as accelerate launch asks for it",
        ),
    ],
)
def test_same_parameters_and_metrics_as_one_process(
    runner: Any, toy: Any, tmp_path: Path, options: dict[str, Any], extra: dict[str, Any]
) -> None:
    (alone, metrics_alone), _ = run(runner, tmp_path / "one", 1, options, **extra)
    (together, metrics), _ = run(runner, tmp_path / "two", 2, options, **extra)
    assert alone.keys() == together.keys()
    for name in alone:
        torch.testing.assert_close(alone[name], together[name], rtol=0, atol=1e-9)
    assert metrics == pytest.approx(metrics_alone, abs=1e-9)
    assert metrics["count"] == 21
    first, second = toy.losses(tmp_path / "one"), toy.losses(tmp_path / "two")
    assert len(first) == len(second) >= 16
    for one, two in zip(first, second, strict=True):
        assert one.keys() == two.keys()
        for name in one.keys() - {"event"}:
            assert one[name] == pytest.approx(two[name], abs=1e-9), (one["step"], name)


def test_sharded_run_continues(runner: Any, toy: Any, tmp_path: Path) -> None:
    """A checkpoint of two sharded processes is whole: one process can take it up."""
    options = {"batch_size": 9, "epochs": 4, "parallel": "fsdp2"}
    whole, _ = run(runner, tmp_path / "whole", 2, options)
    codes, output = runner(
        tmp_path / "parts",
        *("--options", options, "--train-options", LINEAR, "--pause", 0.05, "--seed-by-rank"),
        ranks=2,
        signal=15,
        wait_for="step 6/20",
    )
    assert codes == [143, 143], output
    (continued, _), output = run(runner, tmp_path / "parts", 2, options)
    assert "continuing from" in output
    for name in whole[0]:
        assert continued[name].equal(whole[0][name])
    checkpoint = tmp_path / "parts" / "checkpoints" / "step-00000015"
    alone, _ = run(runner, tmp_path / "alone", 1, {**options, "resume": str(checkpoint)})
    for name in whole[0]:
        torch.testing.assert_close(alone[0][name], whole[0][name], rtol=0, atol=1e-9)


@pytest.mark.slow
def test_torchrun(toy: Any, tmp_path: Path) -> None:
    """The launcher people use; `accelerate launch` starts processes the same way."""
    program = Path(toy.__file__)
    environment = {**os.environ, "PYTHONPATH": str(program.parents[2]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *("--nproc_per_node", "2", str(program), str(tmp_path), "--options", '{"epochs": 1}'),
        ],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "cpu, 2 processes" in done.stdout
    assert [record["step"] for record in toy.losses(tmp_path)] == [1, 2, 3, 4, 5, 5]
