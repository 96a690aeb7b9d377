"""Two processes must do what one does: data parallel and fully sharded (FSDP2), over gloo."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp
from torch import Tensor

from cycledistill import CycleWrapper
from tests.core import parallel

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of the two processes brought home."""
    folder = tmp_path_factory.mktemp("parallel")
    processes = mp.start_processes(
        parallel.run, args=(str(folder),), nprocs=2, join=False, start_method="spawn"
    )
    assert processes is not None
    processes.join(timeout=240)
    for process in processes.processes:
        if process.is_alive():
            process.kill()
    return [
        torch.load(Path(folder, f"{rank}.pt"), weights_only=True)
        if Path(folder, f"{rank}.pt").exists()
        else {}
        for rank in range(2)
    ]


def results(both: list[dict[str, Any]], name: str) -> dict[str, Tensor]:
    """Both processes must have come to the same."""
    if name.startswith("sharded") and torch.__version__ < "2.7":
        pytest.skip("torch 2.6 cannot shard on CPUs")
    for rank, result in enumerate(both):
        assert name in result, f"process {rank} did not get to it"
        assert not isinstance(result[name], str), result[name]
    first, second = both[0][name], both[1][name]
    assert first.keys() == second.keys()
    for key, value in first.items():
        torch.testing.assert_close(value, second[key], rtol=0, atol=1e-12, msg=key)
    return first


@pytest.mark.parametrize(
    "name",
    [
        "data-parallel",
        "data-parallel-block",
        "data-parallel-cycle",
        "data-parallel-batched",
        "data-parallel-inside",
        "sharded",
        "sharded-first",
        "sharded-block",
        "sharded-cycle",
        "sharded-teacher",
        "sharded-batched",
        "sharded-kept",
    ],
)
def test_two_processes_train_as_one(both: list[dict[str, Any]], name: str) -> None:
    scenario_options = {
        key: value
        for key, value in parallel.SCENARIOS[name][1].items()
        if key not in ("order", "keep")
    }
    expected = parallel.alone(**scenario_options)
    got = results(both, name)
    assert got.keys() == expected.keys()
    start = dict(parallel.build().named_parameters())
    for key, value in expected.items():
        torch.testing.assert_close(got[key], value, rtol=0, atol=1e-10, msg=key)
        assert key not in start or not torch.equal(start[key], value), f"{key} trained"


def test_teacher_parameters_and_random_cycles_need_no_search(both: list[dict[str, Any]]) -> None:
    """Without find_unused_parameters; processes agree though they drew different numbers."""
    got = results(both, "data-parallel-teacher")
    assert got["cycle_teacher.up"].any() and got["cycle_teacher.embedding"].any()


def test_cycles_without_a_loss_need_no_search(both: list[dict[str, Any]]) -> None:
    got = results(both, "data-parallel-unused")
    cycled = CycleWrapper(parallel.build(), 3)
    for step in range(parallel.STEPS):
        x, y = parallel.batch(step)
        torch.nn.functional.cross_entropy(cycled(x).predictions[step], y).backward()
    for key, parameter in cycled.named_parameters():
        torch.testing.assert_close(got[key], parameter.grad, rtol=0, atol=1e-10, msg=key)


def test_sharded_models_change_modes(both: list[dict[str, Any]]) -> None:
    got = results(both, "sharded-modes")
    cycled = CycleWrapper(parallel.build(), 2)
    parallel.train(cycled)
    x, _ = parallel.batch(9)
    cycled.eval()
    with torch.no_grad():
        torch.testing.assert_close(got["one"], cycled(x), rtol=0, atol=1e-10)
        torch.testing.assert_close(got["three"], cycled(x, num_cycles=3), rtol=0, atol=1e-10)
    assert torch.equal(got["one"], got["again"])
    cycled.train()
    parallel.train(cycled)
    state = {key[6:]: value for key, value in got.items() if key.startswith("state.")}
    assert state.keys() == cycled.state_dict().keys()
    for key, value in cycled.state_dict().items():
        torch.testing.assert_close(state[key], value, rtol=0, atol=1e-10, msg=key)
