"""The number of cycles over training."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor, nn

from cycledistill import CycleDistillLoss, CycleWrapper, Ramp
from tests.core.models import sequential, tokens


def counts(cycled: CycleWrapper, steps: int = 20) -> list[int]:
    """Cycles of each step of a training."""
    found = []
    for step in range(steps):
        cycled.set_progress(step / steps)
        found.append(len(cycled(tokens()).tokens))
    return found


def test_up_from_one_and_back_to_one() -> None:
    cycled = CycleWrapper(sequential(), 3, cycles_from=0.4, cycles_until=0.8)
    assert counts(cycled) == [1] * 4 + [2] * 4 + [3] * 8 + [1] * 4
    assert cycled.num_cycles == 3
    cycled.set_progress(1.0)
    assert len(cycled(tokens()).tokens) == 1
    assert len(cycled(tokens(), num_cycles=2).tokens) == 2, "asked for by name"
    cycled.eval()
    assert len(cycled.forward_cycles(tokens()).tokens) == 3


@pytest.mark.parametrize("options", [{"cycles_from": 0.5}, {"cycles_until": 0.5}])
def test_a_schedule_that_is_never_told_of_the_progress(options: dict[str, float]) -> None:
    cycled = CycleWrapper(sequential(), 2, **options)
    with pytest.warns(UserWarning, match="set_progress was never called"):
        out = cycled(tokens())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cycled(tokens())  # once is enough
        cycled.eval()(tokens())
        assert counts(CycleWrapper(sequential(), 2, **options))
    criterion = CycleDistillLoss(torch.nn.MSELoss(), Ramp(0.0, 1.0))
    with pytest.warns(UserWarning, match="a weight of CycleDistillLoss"):
        criterion(out, tokens())
    criterion = CycleDistillLoss(torch.nn.MSELoss(), Ramp(0.0, 1.0))
    criterion.set_progress(0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        criterion(out, tokens())


def test_without_a_schedule_progress_changes_nothing() -> None:
    cycled = CycleWrapper(sequential(), 3)
    assert counts(cycled) == [3] * 20
    cycled.set_progress(1.0)
    assert len(cycled(tokens()).tokens) == 3


def test_sampled_counts_follow_the_schedule() -> None:
    torch.manual_seed(0)
    cycled = CycleWrapper(sequential(), 4, min_cycles=2, cycles_from=0.5)
    found = counts(cycled, 60)
    assert found[:10] == [1] * 10
    assert found[10:20] == [2] * 10
    assert set(found[20:30]) == {2, 3}
    assert set(found[30:]) == {2, 3, 4}


def test_teacher_only_parameters_get_gradients_at_one_cycle() -> None:
    cycled = CycleWrapper(sequential(), 3, cycles_from=0.5, gate=True, cycle_embedding=True)
    cycled(tokens()).tokens[-1].sum().backward()
    for name, parameter in cycled.named_parameters():
        assert parameter.grad is not None, name


@pytest.mark.parametrize(("begin", "end"), [(0.6, 0.5), (-0.1, 1.0), (0.0, 1.1)])
def test_bad_parts(begin: float, end: float) -> None:
    with pytest.raises(ValueError, match=r"expected 0 <= cycles_from <= cycles_until <= 1, got"):
        CycleWrapper(sequential(), 2, cycles_from=begin, cycles_until=end)
    with pytest.raises(ValueError, match=r"progress: expected a number from 0 to 1, got 1.5"):
        CycleWrapper(sequential(), 2).set_progress(1.5)


def test_the_size_of_tokens_is_reported() -> None:
    class Doubles(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Parameter(torch.tensor(2.0))

        def forward(self, x: Tensor) -> Tensor:
            return self.one * x

    cycled = CycleWrapper(nn.Sequential(Doubles()), 3, ":")
    losses = CycleDistillLoss(torch.mean)(cycled(torch.full((2, 3, 4), 0.5)))
    assert losses.scales.tolist() == [1.0, 2.0, 4.0]
    assert not losses.scales.requires_grad
    assert losses.scalars()["scale/3"] == 4.0
