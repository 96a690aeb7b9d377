"""The people on which networks do worst and best."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torchmetrics.utilities.data import dim_zero_cat

from cycledistill_pose.data import CocoKeypoints, transform_points
from cycledistill_pose.metrics import CocoKeypointAP, CrowdPoseAP, oks
from cycledistill_pose.metrics._results import split_people


class Case(NamedTuple):
    """One person, the truth and what each network predicts.

    Attributes:
        kind: Why it was picked: the lowest or the highest OKS, or the largest difference between
            the first network and another.
        image_id: Id of the image in the annotations.
        annotation_id: Id of the annotation.
        oks: Object keypoint similarity of each network's prediction, 0 to 1.
        crop: `[H, W, 3]` RGB bytes.
        truth: `[K, 2]` px of the crop.
        visible: `[K]` above 0 where the truth is labelled.
        predictions: `[K, 2]` px of the crop, for each network.
        scores: `[K]` for each network.
    """

    kind: Literal["worst", "best", "differs"]
    image_id: int
    annotation_id: int
    oks: tuple[float, ...]
    crop: NDArray[np.uint8]
    truth: NDArray[np.float64]
    visible: NDArray[np.float64]
    predictions: tuple[NDArray[np.floating[Any]], ...]
    scores: tuple[NDArray[np.float64], ...]


def pick_cases(
    metrics: Sequence[CocoKeypointAP | CrowdPoseAP], people: CocoKeypoints, count: int
) -> list[Case]:
    """The ``count`` worst and best people by mean OKS and those that differ most, each only once.

    ``metrics`` are over the file of ``people`` and have a prediction for each of them, in order.
    """
    k = people.skeleton.num_keypoints
    predicted = [split_people(dim_zero_cat(m.people).double().cpu().numpy(), k) for m in metrics]
    points, scores = [p[0] for p in predicted], [p[1] for p in predicted]
    found = np.array(
        [_similarities(metric, people, p) for metric, p in zip(metrics, points, strict=True)]
    )
    order = np.argsort(found.mean(0), kind="stable").tolist()
    spread = np.abs(found - found[0]).max(0)
    picked: dict[int, Literal["worst", "best", "differs"]] = {}
    for index in order[:count]:
        picked[index] = "worst"
    for index in order[::-1][:count]:
        picked.setdefault(index, "best")
    rest = [i for i in np.argsort(-spread, kind="stable").tolist() if i not in picked]
    for index in [i for i in rest if spread[i] > 0][:count]:
        picked[index] = "differs"
    cases = []
    for index, kind in picked.items():
        sample = people[index]
        matrix = sample["crop_matrix"].double().numpy()
        cases.append(
            Case(
                kind,
                int(sample["image_id"]),
                int(sample["annotation_id"]),
                tuple(float(value) for value in found[:, index]),
                sample["image"].numpy(),
                sample["keypoints"].double().numpy(),
                sample["visible"].double().numpy(),
                tuple(transform_points(p[index], matrix) for p in points),
                tuple(p[index] for p in scores),
            )
        )
    return cases


def _similarities(
    metric: CocoKeypointAP | CrowdPoseAP, people: CocoKeypoints, predicted: NDArray[np.float64]
) -> list[float]:
    """OKS of each prediction to its own annotation, as the metric measures it."""
    annotations = metric.ground_truth.dataset["annotations"]
    values = []
    for place, points in zip(people.rows, predicted, strict=True):
        truth = np.reshape(annotations[place]["keypoints"], (1, -1, 3))
        area, visible = [annotations[place]["area"]], truth[..., 2]
        found = oks(truth[..., :2], points[None], area, sigmas=metric.sigmas, visible_a=visible)
        values.append(float(found[0, 0]))
    return values
