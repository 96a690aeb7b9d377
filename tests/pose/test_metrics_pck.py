"""PCK against a loop over people and keypoints."""

from __future__ import annotations

import pytest
import torch

from cycledistill_pose.metrics import PCK, pck


def slow_pck(keypoints, targets, visible, sizes, threshold) -> float:
    shares = []
    for k in range(keypoints.shape[1]):
        hits = [
            (keypoints[b, k] - targets[b, k]).square().sum().sqrt() < threshold * sizes[b]
            for b in range(len(keypoints))
            if visible[b, k] > 0 and sizes[b] > 0
        ]
        if hits:
            shares.append(float(sum(hits)) / len(hits))
    return sum(shares) / len(shares)


def people(seed: int, count: int = 12, k: int = 5):
    generator = torch.Generator().manual_seed(seed)
    targets = 100 * torch.rand(count, k, 2, generator=generator)
    keypoints = targets + 15 * torch.randn(count, k, 2, generator=generator)
    visible = torch.randint(0, 3, (count, k), generator=generator).float()
    visible[:, 2] = 0
    corner = 50 * torch.rand(count, 2, generator=generator)
    sides = 100 * torch.rand(count, 2, generator=generator)
    return keypoints, targets, visible, torch.cat((corner, corner + sides), dim=1)


@pytest.mark.parametrize("threshold", [0.05, 0.2, 0.5])
@pytest.mark.parametrize("seed", range(4))
def test_value(seed, threshold):
    keypoints, targets, visible, boxes = people(seed)
    sizes = (boxes[:, 2:] - boxes[:, :2]).max(dim=1).values
    expected = slow_pck(keypoints, targets, visible, sizes, threshold)
    value = pck(keypoints, targets, visible, sizes, threshold)
    assert value.item() == pytest.approx(expected)

    metric = PCK(num_keypoints=5, threshold=threshold)
    for part in range(0, 12, 5):
        rows = slice(part, part + 5)
        metric.update(keypoints[rows], targets[rows], visible[rows], boxes[rows])
    assert metric.compute().item() == pytest.approx(expected)
    assert metric.per_keypoint()[2].isnan()


def test_measured_by_the_torso():
    keypoints, targets, visible, _ = people(0)
    metric = PCK(num_keypoints=5, size=(0, 3))
    metric.update(keypoints, targets, visible)
    sizes = (targets[:, 0] - targets[:, 3]).norm(dim=-1)
    sizes[(visible[:, 0] == 0) | (visible[:, 3] == 0)] = 0
    expected = slow_pck(keypoints, targets, visible, sizes, 0.2)
    assert metric.compute().item() == pytest.approx(expected)


def test_whole_pixels():
    metric = PCK(2, threshold=0.2)
    boxes, visible = torch.tensor([[0, 0, 50, 100]]), torch.ones(1, 2)
    metric.update(torch.tensor([[[3, 4], [30, 40]]]), torch.zeros(1, 2, 2).long(), visible, boxes)
    assert metric.compute() == 0.5
    with pytest.raises(ValueError, match=r"boxes_xyxy: expected \[B, 4\]"):
        metric.update(torch.zeros(1, 2, 2), torch.zeros(1, 2, 2), visible, boxes[:, 1:])


def test_nobody_counted_is_not_a_number():
    metric = PCK(num_keypoints=5)
    keypoints, targets, visible, boxes = people(0)
    metric.update(keypoints, targets, 0 * visible, boxes)
    assert metric.compute().isnan()


def test_wrong_arguments():
    keypoints, targets, visible, boxes = people(0)
    with pytest.raises(ValueError, match="threshold: expected a positive number"):
        PCK(threshold=0)
    with pytest.raises(ValueError, match='size: expected "box"'):
        PCK(size="head")
    with pytest.raises(ValueError, match="size: expected indices of two of 5 keypoints"):
        PCK(num_keypoints=5, size=(0, 5))
    with pytest.raises(ValueError, match=r"size: expected indices of two of 5 keypoints, got \(0,"):
        PCK(num_keypoints=5, size=(0,))
    with pytest.raises(ValueError, match="K = 17"):
        PCK().update(keypoints, targets, visible, boxes)
    with pytest.raises(ValueError, match="boxes_xyxy: expected boxes"):
        PCK(num_keypoints=5).update(keypoints, targets, visible)
    with pytest.raises(ValueError, match=r"visible: expected \[B, K\]"):
        pck(keypoints, targets, visible[:, :4], torch.ones(12))
    with pytest.raises(ValueError, match=r"targets: expected \[B, K, 2\] with B"):
        pck(keypoints[:, :4], targets, visible, torch.ones(12))
    targets[3, 2, 0] = torch.nan
    hidden = visible.clone()
    hidden[3, 2], visible[3, 2] = 0, 1
    with pytest.raises(ValueError, match="targets: expected finite numbers where visible"):
        pck(keypoints, targets, visible, torch.ones(12))
    assert pck(keypoints, targets, hidden, torch.ones(12)).isfinite()
