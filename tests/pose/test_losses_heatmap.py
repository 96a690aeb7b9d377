"""HeatmapMSELoss against a loop over keypoints."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cycledistill_pose.losses import HeatmapMSELoss


def slow_loss(heatmaps: np.ndarray, target: np.ndarray, weight: np.ndarray) -> float:
    """The mean over keypoints of each keypoint's mean squared error over batch and pixels."""
    total = 0.0
    for k in range(heatmaps.shape[1]):
        squares = [
            ((heatmaps[b, k] * weight[b, k] - target[b, k] * weight[b, k]) ** 2).mean()
            for b in range(heatmaps.shape[0])
        ]
        total += sum(squares) / len(squares)
    return total / heatmaps.shape[1]


@pytest.mark.parametrize("seed", range(5))
def test_value(seed):
    rng = np.random.default_rng(seed)
    heatmaps, target = rng.normal(size=(2, 3, 5, 8, 6))
    weight = rng.choice([0.0, 0.3, 1.0], (3, 5))
    loss = HeatmapMSELoss()(*map(torch.from_numpy, (heatmaps, target, weight)))
    assert loss.item() == pytest.approx(slow_loss(heatmaps, target, weight), rel=1e-12)
    unweighted = HeatmapMSELoss()(torch.from_numpy(heatmaps), torch.from_numpy(target))
    assert unweighted.item() == pytest.approx(slow_loss(heatmaps, target, np.ones((3, 5))))


def test_gradient_by_hand_and_by_differences():
    heatmaps = torch.randn(2, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    target = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    weight = torch.rand(2, 3, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: HeatmapMSELoss()(x, target, weight), (heatmaps,))
    HeatmapMSELoss()(heatmaps, target, weight).backward()
    by_hand = 2 * (heatmaps - target) * weight[..., None, None] ** 2 / heatmaps.numel()
    torch.testing.assert_close(heatmaps.grad, by_hand.detach())


def test_one_optimiser_step_leads_where_it_should():
    heatmaps = torch.nn.Parameter(torch.randn(1, 2, 4, 4))
    target, weight = torch.randn(1, 2, 4, 4), torch.tensor([[1.0, 0.0]])
    before = heatmaps.detach().clone()
    optimiser = torch.optim.SGD([heatmaps], lr=0.5)
    HeatmapMSELoss()(heatmaps, target, weight).backward()
    optimiser.step()
    expected = before.clone()
    expected[0, 0] -= 0.5 * 2 * (before[0, 0] - target[0, 0]) / 32
    torch.testing.assert_close(heatmaps.detach(), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_float32_under_autocast(dtype):
    heatmaps = torch.full((1, 1, 4, 4), 1e-4, dtype=dtype)
    target = torch.zeros(1, 1, 4, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = HeatmapMSELoss()(heatmaps, target, torch.ones(1, 1, dtype=dtype))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(1e-8, rel=0.02)


def test_wrong_shapes():
    maps = torch.zeros(2, 3, 4, 4)
    with pytest.raises(ValueError, match=r"target: expected \[B, K, H, W\] with B"):
        HeatmapMSELoss()(maps, maps[:, :2])
    with pytest.raises(ValueError, match=r"weight: .* with B = 2, K = 3, got \[2, 3, 1\]"):
        HeatmapMSELoss()(maps, maps, torch.ones(2, 3, 1))
