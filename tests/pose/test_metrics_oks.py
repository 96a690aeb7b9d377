"""OKS and its suppressions against loops that take one pair, or one person, after the other."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO as CocoFile
from pycocotools.cocoeval import COCOeval

from cycledistill_pose.metrics import oks, oks_nms, soft_oks_nms
from cycledistill_pose.skeletons import COCO, CROWDPOSE
from tests.pose.files import coco_file, labelled


def slow_oks(a: np.ndarray, b: np.ndarray, area: float, sigmas: Sequence[float]) -> float:
    total = 0.0
    for (ax, ay), (bx, by), sigma in zip(a, b, sigmas, strict=True):
        total += math.exp(-((ax - bx) ** 2 + (ay - by) ** 2) / (2 * sigma) ** 2 / area / 2)
    return total / len(sigmas)


def slow_nms(poses, scores, areas, threshold, sigmas) -> list[int]:
    """Person after person, by score: stays unless too similar to one who stays."""
    order = sorted(range(len(scores)), key=lambda i: (scores[i], i), reverse=True)
    kept: list[int] = []
    for i in order:
        similar = [slow_oks(poses[i], poses[j], (areas[i] + areas[j]) / 2, sigmas) for j in kept]
        if all(value <= threshold for value in similar):
            kept.append(i)
    return kept


def slow_soft_nms(poses, scores, areas, threshold, sigmas, most) -> list[int]:
    left = dict(enumerate(map(float, scores)))
    taken: list[int] = []
    while left and len(taken) < most:
        best = max(left, key=lambda i: left[i])
        taken.append(best)
        del left[best]
        for i in left:
            similar = slow_oks(poses[i], poses[best], (areas[i] + areas[best]) / 2, sigmas)
            left[i] *= math.exp(-(similar**2) / threshold)
    return taken


def crowd(seed: int, people: int, sigmas: Sequence[float]):
    """People around a few places, many of them much alike."""
    rng = np.random.default_rng(seed)
    places = rng.uniform(0, 300, (max(people // 4, 1), len(sigmas), 2))
    spread = rng.choice([1.0, 4.0, 12.0], people)[:, None, None]
    poses = places[rng.integers(len(places), size=people)]
    poses = poses + spread * rng.normal(size=poses.shape)
    return poses, rng.random(people), rng.uniform(2_000, 40_000, people)


@pytest.mark.parametrize("sigmas", [COCO.sigmas, CROWDPOSE.sigmas, (0.05,) * 5])
def test_oks_of_all_pairs(sigmas):
    poses, _, areas = crowd(0, 9, sigmas)
    matrix = oks(poses[:4], poses[4:], areas[:4], areas[4:], sigmas)
    assert matrix.shape == (4, 5)
    for i, j in np.ndindex(4, 5):
        area = (areas[i] + areas[4 + j]) / 2
        assert matrix[i, j] == pytest.approx(slow_oks(poses[i], poses[4 + j], area, sigmas))
    assert np.allclose(np.diag(oks(poses, poses, areas, areas, sigmas)), 1)


def test_oks_to_annotations_is_that_of_pycocotools():
    poses, scores, areas = crowd(1, 8, COCO.sigmas)
    visible = np.random.default_rng(1).integers(0, 3, (3, 17))
    truth = [
        labelled(i + 1, 1, [0, 0, 1, 1], np.c_[poses[i], visible[i]], area=areas[i])
        for i in range(3)
    ]
    ground_truth = CocoFile()
    ground_truth.dataset = coco_file(truth, ["1.jpg"])
    ground_truth.createIndex()
    found = [
        {
            "image_id": 1,
            "category_id": 1,
            "score": scores[i],
            "keypoints": np.c_[poses[i], np.ones(17)].ravel().tolist(),
        }
        for i in range(3, 8)
    ]
    evaluation = COCOeval(ground_truth, ground_truth.loadRes(found), "keypoints")
    evaluation.evaluate()
    order = 3 + np.argsort(-scores[3:], kind="stable")
    expected = evaluation.ious[1, 1]
    matrix = oks(poses[:3], poses[order], areas[:3], visible_a=visible)
    np.testing.assert_allclose(matrix.T, expected)


@pytest.mark.parametrize("threshold", [0.3, 0.9])
@pytest.mark.parametrize("seed", range(6))
def test_suppression(seed, threshold):
    for people in (1, 2, 7, 40):
        poses, scores, areas = crowd(seed, people, COCO.sigmas)
        kept = oks_nms(poses, scores, areas, threshold)
        assert kept.tolist() == slow_nms(poses, scores, areas, threshold, COCO.sigmas)
        taken = soft_oks_nms(poses, scores, areas, threshold)
        expected = slow_soft_nms(poses, scores, areas, threshold, COCO.sigmas, 20)
        assert taken.tolist() == expected
        assert len(taken) == min(people, 20)


def test_tensors_lists_and_nobody():
    poses, scores, areas = crowd(3, 12, COCO.sigmas)
    expected = oks_nms(poses, scores, areas).tolist()
    assert oks_nms(*map(torch.from_numpy, (poses, scores, areas))).tolist() == expected
    assert oks_nms(poses.tolist(), scores.tolist(), areas.tolist()).tolist() == expected
    assert oks_nms(np.zeros((0, 17, 2)), [], []).tolist() == []
    assert soft_oks_nms(np.zeros((0, 17, 2)), [], []).tolist() == []
    assert oks(poses[:0], poses, [], areas).shape == (0, 12)


def test_of_equal_scores_the_later_comes_first():
    poses = np.zeros((3, 17, 2))
    assert oks_nms(poses, [0.5, 0.5, 0.5], [100.0] * 3).tolist() == [2]


def test_as_similar_as_the_threshold_stays():
    poses = np.zeros((2, 17, 2))
    assert oks_nms(poses, [0.5, 0.6], [100.0] * 2, threshold=1.0).tolist() == [1, 0]


def test_nothing_visible_is_not_similar():
    poses = np.zeros((1, 17, 2))
    assert oks(poses, poses, [100.0], visible_a=np.zeros((1, 17))).item() == 0


def test_wrong_shapes():
    poses = np.zeros((2, 17, 2))
    with pytest.raises(ValueError, match=r"keypoints_b: expected \[M, K, 2\] with K = 17"):
        oks(poses, np.zeros((2, 14, 2)), [1, 1])
    with pytest.raises(ValueError, match=r"areas_a: expected \[N\] with N = 2, got \[1\]"):
        oks(poses, poses, [1.0])
    with pytest.raises(ValueError, match=r"visible_a: expected \[N, K\] with K = 17, N = 2"):
        oks(poses, poses, [1.0, 1.0], visible_a=np.ones((2, 16)))
    with pytest.raises(ValueError, match=r"scores: expected \[N\] with N = 2"):
        oks_nms(poses, [1.0], [1.0, 1.0])
