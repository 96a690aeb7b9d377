from __future__ import annotations

import random
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cycledistill._loading import SampleKey
from cycledistill.training import TrainConfig, WarmupCosine, WarmupSteps
from cycledistill.training._loading import KeyedDataset
from cycledistill.training._sampler import GlobalOrder
from cycledistill.training._seeding import mix_seed, seed_step
from cycledistill.training.processes import evaluation_loader


@given(
    num_samples=st.integers(1, 60),
    batch_size=st.integers(1, 20),
    accumulate=st.integers(1, 4),
    processes=st.integers(1, 5),
    repeats=st.integers(1, 3),
)
def test_every_sample_of_an_epoch_once(
    num_samples: int, batch_size: int, accumulate: int, processes: int, repeats: int
) -> None:
    config = TrainConfig(
        batch_size=batch_size,
        accumulate=accumulate,
        drop_last=False,
        repeated_augmentation=repeats,
        epochs=2,
    )
    order = GlobalOrder(config, num_samples)
    for epoch in range(2):
        counted: Counter[SampleKey] = Counter()
        steps = range(epoch * order.steps_per_epoch, (epoch + 1) * order.steps_per_epoch)
        for step in steps:
            shares = [order.microbatches(step, p, processes) for p in range(processes)]
            assert len({len(share) for share in shares}) == 1  # in step with one another
            sizes = [len(s.keys) for share in shares for s in share if not s.is_filler]
            assert sum(sizes) == len(order.batch(step))
            for share in shares:
                assert all(piece.keys for piece in share)
                counted.update(k for piece in share if not piece.is_filler for k in piece.keys)
        assert sum(counted.values()) == num_samples
        assert set(counted.values()) == {1}
        assert {key.epoch // repeats for key in counted} == {epoch}
        if repeats == 1:
            assert {key.sample for key in counted} == set(range(num_samples))


def test_order_depends_on_seed_and_epoch_alone() -> None:
    def order(**changes: Any) -> list[int]:
        made = GlobalOrder(TrainConfig(batch_size=5, **changes), 50)
        return [key.sample for step in range(20) for key in made.batch(step)]

    assert order() == order(accumulate=2, num_workers=7)
    assert order() != order(seed=1)
    assert order()[:50] != order()[50:]
    assert sorted(order()[:50]) == sorted(order()[50:]) == list(range(50))


def test_sampler_starts_anywhere() -> None:
    order = GlobalOrder(TrainConfig(batch_size=8, accumulate=2, epochs=3, drop_last=False), 37)
    whole = list(order.batches(0, 1, 2))
    for first in (1, 5, 7, 14):
        before = sum(len(order.microbatches(step, 1, 2)) for step in range(first))
        assert list(order.batches(first, 1, 2)) == whole[before:]


def test_steps_per_epoch() -> None:
    assert TrainConfig(batch_size=32).steps_per_epoch(100) == 3
    assert TrainConfig(batch_size=32, drop_last=False).steps_per_epoch(100) == 4
    assert TrainConfig(batch_size=50, drop_last=False).steps_per_epoch(100) == 2
    with pytest.raises(ValueError, match="batch_size=32 is more than the 31 samples"):
        TrainConfig(batch_size=32).steps_per_epoch(31)
    with pytest.raises(ValueError, match="the training set is empty"):
        TrainConfig().steps_per_epoch(0)


def test_mixed_seeds_differ() -> None:
    seeds = {mix_seed(a, b, c) for a in range(20) for b in range(20) for c in range(20)}
    assert len(seeds) == 8000
    assert all(0 <= seed < 2**63 for seed in seeds)
    ones = sum(seed.bit_count() for seed in seeds) / 8000
    assert 31 < ones < 32  # half of 63 bits


@pytest.mark.parametrize(("num_samples", "world_size"), [(11, 1), (11, 4), (2, 3), (0, 2)])
def test_evaluations_cover_every_sample_once(
    monkeypatch: pytest.MonkeyPatch, num_samples: int, world_size: int
) -> None:
    seen: list[int] = []
    monkeypatch.setenv("WORLD_SIZE", str(world_size))
    for rank in range(world_size):
        monkeypatch.setenv("RANK", str(rank))
        loader = evaluation_loader(list(range(num_samples)), batch_size=2)
        batches = [batch.tolist() for batch in loader]
        assert len(batches) == len(loader)
        seen += [index for batch in batches for index in batch]
    assert sorted(seen) == list(range(num_samples))


def test_samples_have_seeds_of_their_own() -> None:
    class Noise(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return 4

        def __getitem__(self, index: int) -> tuple[float, float, float]:
            return random.random(), float(np.random.rand()), float(torch.rand(()))

    dataset = KeyedDataset(Noise(), seed=0)
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    expected_after = random.random(), np.random.rand(), float(torch.rand(()))
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    samples = [dataset[SampleKey(index, epoch)] for index in range(4) for epoch in range(3)]
    assert (random.random(), np.random.rand(), float(torch.rand(()))) == expected_after
    keys = [SampleKey(index, epoch) for index in range(4) for epoch in range(3)]
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    assert dataset.__getitems__(keys) == samples
    assert (random.random(), np.random.rand(), float(torch.rand(()))) == expected_after
    assert len(set(samples)) == 12
    assert all(len(set(sample)) == 3 for sample in samples)
    assert dataset[SampleKey(3, 2)] == samples[-1]
    assert KeyedDataset(Noise(), seed=1)[SampleKey(3, 2)] != samples[-1]


def test_processes_share_the_cpu_generator_only() -> None:
    def draws(process: int) -> tuple[float, float, float]:
        seed_step(0, 5, 1, process)
        return float(torch.rand(())), random.random(), float(np.random.rand())

    assert draws(0) == draws(0)
    assert draws(0)[0] == draws(1)[0]
    assert draws(0)[1] != draws(1)[1] and draws(0)[2] != draws(1)[2]


def test_warmup_steps_as_in_the_paper() -> None:
    """lr 1e-3, from 1e-6 over 500 steps, /10 at epochs 200 and 260 of 300."""
    per_epoch = 293
    schedule = WarmupSteps(500, start=1e-3, milestones=(200 * per_epoch, 260 * per_epoch))
    assert 1e-3 * schedule(0) == pytest.approx(1e-6)
    assert 1e-3 * schedule(250) == pytest.approx((1e-3 + 1e-6) / 2)
    assert schedule(500) == schedule(200 * per_epoch - 1) == 1.0
    assert schedule(200 * per_epoch) == schedule(260 * per_epoch - 1) == pytest.approx(0.1)
    assert schedule(260 * per_epoch) == schedule(10**7) == pytest.approx(0.01)
    with pytest.raises(ValueError, match=r"milestones must ascend, got \(5, 3\)"):
        WarmupSteps(milestones=(5, 3))


def test_warmup_cosine_against_torch() -> None:
    schedule = WarmupCosine(total_steps=100, warmup_steps=10, start=0.01, end=0.05)
    parameter = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=90, eta_min=0.05)
    for step in range(10, 101):
        assert schedule(step) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-12)
        optimizer.step(), cosine.step()
    assert [schedule(step) for step in (0, 5)] == pytest.approx([0.01, 0.505])
    assert schedule(1000) == pytest.approx(0.05)
    with pytest.raises(ValueError, match="warmup_steps=200 must lie in"):
        WarmupCosine(total_steps=100, warmup_steps=200)
