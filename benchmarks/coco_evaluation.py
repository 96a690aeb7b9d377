"""COCO evaluation: `CocoKeypointAP` over pycocotools alone, on the same results."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np
from pycocotools.coco import COCO as CocoFile
from pycocotools.cocoeval import COCOeval

from benchmarks.comparison import Comparison, compare
from cycledistill_pose import COCO, CocoKeypointAP

IMAGES, PEOPLE = 400, 2


def measure(rounds: int) -> list[Comparison]:
    truth = made_up_truth()
    found = []
    for nms in (None, "oks"):
        metric = filled(truth, nms)
        results = metric.results()
        ours, theirs = list(metric.compute().values()), pycocotools_alone(truth, results)
        assert np.abs(np.array(ours) - theirs).max() < 1e-12
        assert 0.02 < ours[0] < 0.98

        def evaluate(metric: CocoKeypointAP = metric) -> None:
            metric._computed = None  # torchmetrics would give the figures of the last round
            metric.compute()

        def alone(results: list[dict[str, Any]] = results) -> None:
            pycocotools_alone(truth, results)

        with_nms = "with scoring and OKS-NMS" if nms else "scores as given, no NMS"
        found.append(
            compare(
                f"evaluation of {IMAGES * PEOPLE} people, {with_nms}: ours / pycocotools alone",
                evaluate,
                alone,
                rounds,
            )
        )
    return found


def made_up_truth() -> dict[str, Any]:
    """COCO annotations of people at random places."""
    rng = np.random.default_rng(0)
    people = []
    for index in range(IMAGES * PEOPLE):
        x, y, width, height = (*rng.uniform(0, 300, 2), *rng.uniform(40, 200, 2))
        points = np.c_[[x, y] + rng.random((17, 2)) * [width, height], np.full(17, 2.0)]
        people.append(
            {
                "id": index + 1,
                "image_id": index // PEOPLE + 1,
                "category_id": 1,
                "bbox": [x, y, width, height],
                "area": 0.6 * width * height,
                "iscrowd": 0,
                "num_keypoints": 17,
                "keypoints": points.ravel().tolist(),
            }
        )
    return {
        "info": {},
        "images": [{"id": index + 1} for index in range(IMAGES)],
        "categories": [{"id": 1, "name": "person"}],
        "annotations": people,
    }


def filled(truth: dict[str, Any], nms: str | None) -> CocoKeypointAP:
    """The metric after it has seen everybody, a few pixels beside where they are."""
    rng = np.random.default_rng(1)
    people = truth["annotations"]
    count = len(people)
    points = np.array([person["keypoints"] for person in people]).reshape(count, 17, 3)[..., :2]
    boxes = np.array([person["bbox"] for person in people])
    metric = CocoKeypointAP(truth, nms=nms)
    metric.update(
        image_ids=[person["image_id"] for person in people],
        keypoints=points + rng.normal(0, rng.uniform(0, 12, (count, 1, 1)), points.shape),
        keypoint_scores=rng.uniform(0.3, 1, (count, 17)),
        boxes_xyxy=np.c_[boxes[:, :2], boxes[:, :2] + boxes[:, 2:]],
        box_scores=rng.uniform(0.2, 1, count),
    )
    return metric


def pycocotools_alone(truth: dict[str, Any], results: list[dict[str, Any]]) -> np.ndarray:
    """The ten figures, from annotations and results in memory."""
    with contextlib.redirect_stdout(io.StringIO()):
        ground_truth = CocoFile()
        ground_truth.dataset = truth
        ground_truth.createIndex()
        predictions = ground_truth.loadRes([dict(result) for result in results])
        evaluation = COCOeval(ground_truth, predictions, "keypoints")
        evaluation.params.kpt_oks_sigmas = np.array(COCO.sigmas)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats
