"""Models whose batch norms mix the samples of a batch, but not the cycles."""

from __future__ import annotations

import copy
from collections import OrderedDict

import pytest
import torch
from torch import Tensor, nn

from cycledistill import CycleWrapper
from tests.core.models import BatchNormHead, tokens
from tests.core.reference import assert_same


class BothEnds(BatchNormHead):
    """A batch norm before the stack, too."""

    def __init__(self, momentum: float | None = 0.1) -> None:
        super().__init__()
        self.first = nn.BatchNorm1d(6, momentum=momentum)
        self.bn.momentum = momentum  # type: ignore[assignment]
        nn.init.uniform_(self.bn.weight, 0.5, 2.0)
        nn.init.uniform_(self.bn.bias, -1.0, 1.0)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.first(x))


@pytest.mark.parametrize("momentum", [0.1, None])
def test_the_head_runs_once_for_each_cycle_and_the_stem_once(momentum: float | None) -> None:
    model = BothEnds(momentum).double()
    plain = copy.deepcopy(model)
    cycled = CycleWrapper(model, 3)
    for _ in range(2):
        x = tokens(4)
        out = cycled(x)
        t, expected = plain.first(x), []
        for _ in range(3):
            t = plain.blocks(t)
            expected.append(plain.head(plain.bn(t.mean(1))))
        assert_same(out.predictions, tuple(expected))
    for (name, got), wanted in zip(model.named_buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(got, wanted, msg=name)
    assert (model.first.num_batches_tracked, model.bn.num_batches_tracked) == (2, 6)
    assert model.first.track_running_stats and model.bn.track_running_stats
    x = tokens(3)
    assert_same(cycled.eval()(x), plain.eval()(x))
    t = plain.blocks(plain.blocks(plain.blocks(plain.first(x))))
    assert_same(cycled(x, num_cycles=3), plain.head(plain.bn(t.mean(1))))


def test_converted_batch_norms_see_the_batch_once() -> None:
    model = BothEnds()
    cycled = nn.SyncBatchNorm.convert_sync_batchnorm(CycleWrapper(model, 3))
    assert isinstance(model.first, nn.SyncBatchNorm)
    cycled(tokens(4).float())
    assert (model.first.num_batches_tracked, model.bn.num_batches_tracked) == (1, 3)


def test_a_batch_norm_without_running_statistics_mixes_in_eval_too() -> None:
    model = BothEnds().double()
    model.bn = nn.BatchNorm1d(16, track_running_stats=False).double()
    model.eval()
    plain = copy.deepcopy(model)
    x = tokens(4)
    with pytest.raises(ValueError, match=r"mixes the samples of a batch.*Use batched=False"):
        CycleWrapper(copy.deepcopy(model), 2, batched=True).forward_cycles(x)
    out = CycleWrapper(model, 2).forward_cycles(x)
    first = plain.blocks(plain.first(x))
    expected = tuple(plain.head(plain.bn(t.mean(1))) for t in (first, plain.blocks(first)))
    assert_same(out.predictions, expected)


def test_batch_norms_before_and_inside_of_the_stack_are_no_obstacle() -> None:
    torch.manual_seed(0)
    blocks = [nn.Sequential(nn.Linear(16, 16), nn.BatchNorm1d(6)) for _ in range(2)]
    parts = {"stem": nn.BatchNorm1d(6), "blocks": nn.Sequential(*blocks), "head": nn.Linear(16, 5)}
    model = nn.Sequential(OrderedDict(parts)).double()
    plain = copy.deepcopy(model)
    x = tokens(4)
    out = CycleWrapper(model, 2)(x)
    t = plain.stem(x)
    expected = []
    for _ in range(2):
        for block in plain.blocks:
            t = block(t)
        expected.append(plain.head(t))
    assert_same(out.predictions, tuple(expected))
    for (name, one), other in zip(model.named_buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(one, other, msg=name)
