"""CocoKeypointAP and CrowdPoseAP against results made by hand and given to pycocotools."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import math
import pickle
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO as CocoFile
from pycocotools.cocoeval import COCOeval

from cycledistill_pose.metrics import CocoKeypointAP, CrowdPoseAP
from cycledistill_pose.skeletons import COCO, CROWDPOSE
from tests.pose.files import labelled

COCO_NAMES = ["AP", "AP50", "AP75", "APM", "APL", "AR", "AR50", "AR75", "ARM", "ARL"]


def direct_evaluation(truth: dict[str, Any], results: list, sigmas, images=None) -> list[float]:
    """What pycocotools' own summary says of a file and results."""
    with contextlib.redirect_stdout(io.StringIO()):
        coco = CocoFile()
        coco.dataset = copy.deepcopy(truth)
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(copy.deepcopy(results)), "keypoints")
        evaluation.params.kpt_oks_sigmas = np.array(sigmas)
        if images is not None:
            evaluation.params.imgIds = images
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return list(evaluation.stats)


def slow_results(people: list[dict], sigmas, nms: str | None, threshold=0.9, floor=0.2) -> list:
    """Scored, thinned out and written down one person after the other."""
    by_image: dict[int, list] = defaultdict(list)
    for person in people:
        good = [s for s in person["scores"] if s > floor]
        score = person["box_score"]
        if nms is not None:
            score *= sum(good) / len(good) if good else 0.0
        x1, y1, x2, y2 = person["box"]
        area = 1.25 * (x2 - x1) * 1.25 * (y2 - y1)
        by_image[person["image_id"]].append((score, area, person))

    def similar(a, b) -> float:
        mean_area = (a[1] + b[1]) / 2
        terms = [
            math.exp(-(math.dist(p, q) ** 2) / (2 * s) ** 2 / mean_area / 2)
            for p, q, s in zip(a[2]["keypoints"], b[2]["keypoints"], sigmas, strict=True)
        ]
        return sum(terms) / len(terms)

    results = []
    for found in by_image.values():
        left = sorted(found, key=lambda entry: entry[0], reverse=True)
        if nms == "oks":
            kept: list = []
            for entry in left:
                if all(similar(entry, other) <= threshold for other in kept):
                    kept.append(entry)
        elif nms == "soft_oks":
            kept, weights = [], [entry[0] for entry in left]
            while left and len(kept) < 20:
                best = weights.index(max(weights))
                chosen = left.pop(best)
                weights.pop(best)
                kept.append(chosen)
                weights = [
                    w * math.exp(-(similar(chosen, entry) ** 2) / threshold)
                    for w, entry in zip(weights, left, strict=True)
                ]
        else:
            kept = found
        for score, _, person in kept:
            rows = [
                (*point, s) for point, s in zip(person["keypoints"], person["scores"], strict=True)
            ]
            results.append(
                {
                    "image_id": person["image_id"],
                    "category_id": 1,
                    "keypoints": [float(value) for row in rows for value in row],
                    "score": float(score),
                }
            )
    return results


def predictions(truth: dict[str, Any], seed: int, copies: int = 3) -> list[dict]:
    """Annotated people several times with errors of many sizes, and people out of the blue."""
    rng = np.random.default_rng(seed)
    people = []
    for annotation in truth["annotations"]:
        points = np.array(annotation["keypoints"], dtype=float).reshape(-1, 3)
        x, y, w, h = annotation["bbox"]
        guess = [x, y] + rng.random((len(points), 2)) * [w, h]
        points = np.where(points[:, 2:] > 0, points[:, :2], guess)
        size = math.sqrt(w * h) + 1
        for _ in range(rng.integers(0, copies + 1)):
            error = size * rng.choice([0.002, 0.01, 0.04, 0.15]) * rng.normal(size=points.shape)
            people.append(
                {
                    "image_id": annotation["image_id"],
                    "keypoints": points + error,
                    "scores": rng.uniform(0, 1, len(points)),
                    "box": [x, y, x + w + 1, y + h + 1],
                    "box_score": float(rng.uniform(0.1, 1)),
                }
            )
    for image in truth["images"][::3]:
        people.append(
            {
                "image_id": image["id"],
                "keypoints": rng.uniform(0, 400, (len(points), 2)),
                "scores": rng.uniform(0, 0.25, len(points)),
                "box": [0.0, 0.0, 200.0, 200.0],
                "box_score": 0.9,
            }
        )
    rng.shuffle(people)
    return people


def hand_over(metric, people: list[dict], batch: int = 7, ids: bool = False) -> None:
    for start in range(0, len(people), batch):
        part = people[start : start + batch]
        metric.update(
            torch.tensor([p["image_id"] for p in part]),
            torch.tensor(np.array([p["keypoints"] for p in part])),
            torch.tensor(np.array([p["scores"] for p in part])),
            torch.tensor([p["box"] for p in part], dtype=torch.float64),
            torch.tensor([p["box_score"] for p in part], dtype=torch.float64),
            torch.arange(start, start + len(part)) if ids else None,
        )


def small_truth(k: int = 17, people: int = 12, seed: int = 0) -> dict[str, Any]:
    """A made-up annotation file of six images, one of them empty."""
    rng = np.random.default_rng(seed)
    annotations = []
    for i in range(people):
        w, h = rng.uniform(30, 220, 2)
        x, y = rng.uniform(0, 300, 2)
        points = np.c_[[x, y] + rng.random((k, 2)) * [w, h], rng.integers(0, 3, k)]
        points[points[:, 2] == 0] = 0
        area = 0.6 * w * h
        annotations.append(labelled(11 + i, 100 + i % 5, [x, y, w, h], points, area=area))
    return {
        "images": [{"id": 100 + i, "crowdIndex": i / 5} for i in range(6)],
        "categories": [{"id": 1, "name": "person"}],
        "annotations": annotations,
    }


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


@pytest.mark.parametrize("nms", ["oks", "soft_oks", None])
@pytest.mark.parametrize(
    ("source", "batch"),
    [
        (0, 1),
        (1, 7),
        (2, 1000),
        ("samples/coco/test_coco.json", 7),
        ("tiny_coco/annotations/person_keypoints_val2017.json", 7),
        ("tiny_coco/annotations/person_keypoints_train2017.json", 7),
    ],
)
def test_figures_are_those_of_pycocotools(shared_data, source, batch, nms):
    """Of made-up files by their seed and of COCO's; in batches of any size."""
    truth = file = small_truth(seed=source) if isinstance(source, int) else None
    if file is None:
        folder, _, name = source.partition("/")
        file = shared_data(folder) / name
        truth = read(file)
    people = predictions(truth, seed=source if isinstance(source, int) else 0)
    metric = CocoKeypointAP(file, nms=nms)
    hand_over(metric, people, batch)
    results = slow_results(people, COCO.sigmas, nms)
    expected = dict(zip(COCO_NAMES, direct_evaluation(truth, results, COCO.sigmas), strict=True))
    figures = metric.compute()
    assert list(figures) == COCO_NAMES
    assert figures == pytest.approx(expected, abs=1e-12)
    assert 0.02 < figures["AP"] < 0.98


@pytest.mark.parametrize("nms", ["oks", "soft_oks", None])
@pytest.mark.parametrize("source", ["made up", "samples"])
def test_crowdpose_figures_are_those_of_pycocotools(request, source, nms):
    if source == "samples":
        folder = request.getfixturevalue("shared_data")("samples")
        truth = read(folder / "crowdpose" / "test_crowdpose.json")
    else:
        truth = small_truth(k=14, people=20)
    people = predictions(truth, seed=1, copies=5)
    metric = CrowdPoseAP(truth, nms=nms)
    hand_over(metric, people)

    by_hand = copy.deepcopy(truth)
    for annotation in by_hand["annotations"]:
        annotation["area"] = annotation["bbox"][2] * annotation["bbox"][3] * 0.53
    results = slow_results(people, CROWDPOSE.sigmas, nms)
    expected = dict(
        zip(COCO_NAMES, direct_evaluation(by_hand, results, CROWDPOSE.sigmas), strict=True)
    )
    for size in ("APM", "APL", "ARM", "ARL"):
        del expected[size]
    crowd = {image["id"]: image["crowdIndex"] for image in truth["images"]}
    for name, inside in (
        ("AP_easy", lambda c: c < 0.2),
        ("AP_medium", lambda c: 0.2 <= c < 0.8),
        ("AP_hard", lambda c: c >= 0.8),
    ):
        images = [image for image, index in crowd.items() if inside(index)]
        expected[name] = -1.0
        if images:
            stats = direct_evaluation(by_hand, results, CROWDPOSE.sigmas, images)
            expected[name] = stats[0]
    figures = metric.compute()
    assert list(figures) == [
        *("AP", "AP50", "AP75", "AR", "AR50", "AR75"),
        *("AP_easy", "AP_medium", "AP_hard"),
    ]
    assert figures == pytest.approx(expected, abs=1e-12)
    if source == "made up":
        assert len({round(figures[f"AP_{c}"], 6) for c in ("easy", "medium", "hard")}) == 3


def test_without_nms_people_are_scored_by_their_boxes_unless_asked_otherwise():
    truth = small_truth()
    people = predictions(truth, 0)
    for cls, file in ((CocoKeypointAP, truth), (CrowdPoseAP, small_truth(k=14))):
        people = predictions(file, 0)
        metric = cls(file, nms=None)
        hand_over(metric, people)
        assert sorted(r["score"] for r in metric.results()) == sorted(
            p["box_score"] for p in people
        )
        assert len(metric.results()) == len(people)
    people = predictions(truth, 0)
    metric = CocoKeypointAP(truth, nms=None, rescore=True)
    hand_over(metric, people)
    expected = []
    for person in people:
        good = [s for s in person["scores"] if s > 0.2]
        expected.append(person["box_score"] * (sum(good) / len(good) if good else 0))
    np.testing.assert_allclose(sorted(r["score"] for r in metric.results()), sorted(expected))


def test_a_keypoint_at_the_threshold_does_not_count():
    truth = small_truth()
    metric = CocoKeypointAP(truth, keypoint_score_threshold=0.5)
    scores = torch.full((3, 17), 0.5)
    scores[1, 3] = 0.75
    scores[2] = 0.1
    points = 50.0 * torch.arange(3).view(3, 1, 1) + torch.zeros(3, 17, 2)
    boxes = torch.tensor([[0.0, 0.0, 20.0, 20.0]]).expand(3, 4)
    metric.update([100, 100, 100], points, scores, boxes, torch.tensor([0.9, 0.5, 0.9]))
    assert sorted(r["score"] for r in metric.results()) == pytest.approx([0, 0, 0.375])


def test_the_threshold_of_the_suppression_counts():
    truth = small_truth()
    people = predictions(truth, 0)
    for threshold in (0.0, 0.5, 0.99):
        metric = CocoKeypointAP(truth, nms_threshold=threshold)
        hand_over(metric, people)
        expected = slow_results(people, COCO.sigmas, "oks", threshold=threshold)
        assert len(metric.results()) == len(expected)


def test_batches_do_not_matter():
    truth = small_truth()
    people = predictions(truth, 2)
    figures = []
    for batch in (1, 5, 1000):
        metric = CocoKeypointAP(truth)
        hand_over(metric, people, batch)
        figures.append(metric.compute())
    assert figures[0] == figures[1] == figures[2]
    metric.reset()
    hand_over(metric, people[:3])
    assert len(metric.results()) <= 3


@pytest.mark.parametrize("ids", [True, False])
def test_people_handed_over_twice_count_once(ids):
    truth = small_truth()
    people = predictions(truth, 2)
    once, twice = CocoKeypointAP(truth, nms=None), CocoKeypointAP(truth, nms=None)
    hand_over(once, people, ids=ids)
    hand_over(twice, people, ids=ids)
    hand_over(twice, people[: 14 if ids else 5], ids=ids)
    assert twice.results() == once.results()
    assert twice.compute() == once.compute()
    assert len(once.results()) == len(people)


def test_ids_tell_people_apart_within_an_image_and_minus_one_is_unknown():
    metric = CocoKeypointAP(small_truth(), nms=None)
    points, box = torch.rand(4, 17, 2), torch.tensor([[0.0, 0.0, 1.0, 1.0]]).expand(4, 4)
    points[1] = points[0]
    metric.update([100, 100, 101, 101], points, torch.ones(4, 17), box, torch.ones(4), [1, 2, 2, 2])
    assert len(metric.results()) == 3
    metric.reset()
    metric.update([100] * 4, points, torch.ones(4, 17), box, torch.ones(4), [-1] * 4)
    assert len(metric.results()) == 3


def test_saved_results_are_the_official_format(tmp_path):
    truth = small_truth()
    people = predictions(truth, 0)
    metric = CocoKeypointAP(truth)
    hand_over(metric, people)
    path = tmp_path / "new folder" / "results.json"
    metric.save_results(path)
    assert [entry.name for entry in path.parent.iterdir()] == ["results.json"]
    results = json.loads(path.read_text())
    assert all(list(r) == ["image_id", "category_id", "keypoints", "score"] for r in results)
    assert all(len(r["keypoints"]) == 51 for r in results)
    stats = direct_evaluation(truth, results, COCO.sigmas)
    assert metric.compute() == pytest.approx(dict(zip(COCO_NAMES, stats, strict=True)), abs=1e-12)


def test_an_interrupted_save_leaves_the_old_file(tmp_path, monkeypatch):
    metric = CocoKeypointAP(small_truth())
    path = tmp_path / "results.json"
    path.write_text("old")
    hand_over(metric, predictions(small_truth(), 0))

    def broken(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("os.fsync", broken)
    with pytest.raises(OSError, match="no space left"):
        metric.save_results(path)
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["results.json"]


def test_nobody_predicted_or_nobody_annotated():
    truth = small_truth()
    metric = CocoKeypointAP(truth)
    metric.update([], torch.zeros(0, 17, 2), torch.zeros(0, 17), torch.zeros(0, 4), [])
    assert set(metric.compute().values()) == {0.0}
    with pytest.warns(UserWarning, match="before the ``update``"):
        assert CocoKeypointAP(truth).compute()["AP"] == 0
    del truth["annotations"]
    metric = CocoKeypointAP(truth)
    hand_over(metric, predictions(small_truth(), 0))
    assert set(metric.compute().values()) == {-1.0}
    assert metric.results()


def test_annotation_zero_can_be_found():
    """pycocotools alone takes a match with annotation 0 for none."""
    truth = small_truth(people=5)
    for i, annotation in enumerate(truth["annotations"]):
        annotation["id"] = i
    metric = CocoKeypointAP(truth, nms=None)
    people = [a for a in truth["annotations"] if a["num_keypoints"]]
    points = torch.tensor([a["keypoints"] for a in people]).view(-1, 17, 3)
    boxes = torch.tensor([a["bbox"] for a in people])
    images = [a["image_id"] for a in people]
    metric.update(images, points[..., :2], points[..., 2], boxes, torch.ones(len(people)))
    assert metric.compute()["AR"] == 1


def test_sigmas():
    assert CocoKeypointAP(small_truth()).sigmas == COCO.sigmas
    assert CrowdPoseAP(small_truth(k=14)).sigmas == CROWDPOSE.sigmas
    truth = small_truth(k=3)
    truth["categories"][0]["keypoints"] = ["beak", "left_wing", "right_wing"]
    assert CocoKeypointAP(truth).sigmas == (0.05, 0.05, 0.05)
    truth["categories"][0]["sigmas"] = [0.1, 0.2, 0.3]
    assert CocoKeypointAP(truth).sigmas == (0.1, 0.2, 0.3)
    assert CocoKeypointAP(truth, sigmas=[0.4, 0.5, 0.6]).sigmas == (0.4, 0.5, 0.6)

    people = predictions(truth, 0)
    figures = []
    for sigmas in ([0.02] * 3, [0.2] * 3):
        metric = CocoKeypointAP(truth, sigmas=sigmas)
        hand_over(metric, people)
        stats = direct_evaluation(truth, slow_results(people, sigmas, "oks"), sigmas)
        figures.append(metric.compute()["AP"])
        assert figures[-1] == pytest.approx(stats[0], abs=1e-12)
    assert figures[0] < figures[1]


def test_people_without_area_count_with_a_share_of_their_box():
    truth = small_truth()
    people = predictions(truth, 0)
    without, by_hand = copy.deepcopy(truth), copy.deepcopy(truth)
    for bare, full in zip(without["annotations"], by_hand["annotations"], strict=True):
        del bare["area"], bare["num_keypoints"], bare["iscrowd"]
        full["area"] = 0.53 * full["bbox"][2] * full["bbox"][3]
    figures = []
    for source in (without, by_hand):
        metric = CocoKeypointAP(source)
        hand_over(metric, people)
        figures.append(metric.compute())
    assert figures[0] == figures[1]


def test_copies_and_pickles():
    metric = CocoKeypointAP(small_truth())
    people = predictions(small_truth(), 0)
    hand_over(metric, people[:10])
    again = pickle.loads(pickle.dumps(metric))
    clone = metric.clone()
    for other in (metric, again, clone):
        hand_over(other, people[10:])
    assert metric.compute() == again.compute() == clone.compute()


def test_half_precision_and_casts_of_the_module_do_not_round_the_state():
    metric = CocoKeypointAP(small_truth()).half()
    points = torch.full((1, 17, 2), 1234.5678, dtype=torch.float64)
    metric.update([100], points, torch.ones(1, 17), torch.tensor([[0, 0, 9, 9]]), [1])
    assert metric.results()[0]["keypoints"][0] == 1234.5678


def update_arguments(**changes: Any) -> dict[str, Any]:
    return {
        "image_ids": [100, 101],
        "keypoints": torch.zeros(2, 17, 2),
        "keypoint_scores": torch.ones(2, 17),
        "boxes_xyxy": torch.tensor([[0.0, 0.0, 9.0, 9.0]] * 2),
        "box_scores": torch.ones(2),
        **changes,
    }


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"image_ids": [100, 7]}, r"image_ids 7 are not among the 6 images"),
        ({"image_ids": [[100], [101]]}, r"image_ids: expected \[B\], got \[2, 1\]"),
        ({"keypoints": torch.zeros(2, 14, 2)}, r"keypoints: .* with B = 2, K = 17"),
        ({"keypoints": torch.zeros(3, 17, 2)}, r"with B = 2, K = 17, got \[3, 17, 2\]"),
        ({"keypoint_scores": torch.ones(2, 17, 1)}, r"keypoint_scores: expected \[B, K\]"),
        ({"boxes_xyxy": torch.ones(2, 5)}, r"boxes_xyxy: expected \[B, 4\]"),
        ({"box_scores": torch.ones(1)}, r"box_scores: expected \[B\] with B = 2"),
        ({"ids": [1]}, r"ids: expected \[B\] with B = 2"),
        ({"image_ids": [100.0, 101.9]}, r"image_ids: expected integers, got 100.0, 101.9"),
        ({"ids": [0.5, 1.0]}, "ids: expected integers, got 0.5"),
    ],
)
def test_wrong_updates(changes, words):
    metric = CocoKeypointAP(small_truth())
    with pytest.raises(ValueError, match=words):
        metric.update(**update_arguments(**changes))
    assert metric.results() == []


def test_what_is_not_finite_is_named():
    metric = CocoKeypointAP(small_truth())
    metric.update(**update_arguments(keypoints=torch.full((2, 17, 2), float("nan"))))
    with pytest.raises(ValueError, match="2 people are not finite, in the images 100, 101"):
        metric.compute()


def test_wrong_arguments():
    with pytest.raises(ValueError, match="nms: expected 'oks', 'soft_oks' or None"):
        CocoKeypointAP(small_truth(), nms="hard")
    with pytest.raises(ValueError, match=r"sigmas: expected 17 positive numbers.* got 14"):
        CocoKeypointAP(small_truth(), sigmas=CROWDPOSE.sigmas)
    with pytest.raises(ValueError, match="sigmas must be given: the annotations are of 5 unnamed"):
        CocoKeypointAP(small_truth(k=5))
