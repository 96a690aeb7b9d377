"""AP after every number of cycles, and the picture of predictions."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from cycledistill import CycleWrapper
from cycledistill.training import evaluation_loader
from cycledistill_pose.codecs import HeatmapCodec, RegressionCodec
from cycledistill_pose.data import invert_matrix, normalize_images, pose_loader, transform_points
from cycledistill_pose.drawing import prediction_grid, save_picture
from cycledistill_pose.metrics import PCK, CocoKeypointAP, CrowdPoseAP
from cycledistill_pose.prediction import predict_cycles
from cycledistill_pose.recipes._config import PoseConfig
from cycledistill_pose.recipes._data import PoseData

PCK_THRESHOLD = 0.1


class CycleMetrics(NamedTuple):
    """Metrics of one number of cycles; ``pck`` is None where detected boxes have no truth."""

    ap: CocoKeypointAP | CrowdPoseAP
    pck: PCK | None


def evaluate_cycles(
    model: CycleWrapper,
    data: PoseData,
    codec: HeatmapCodec | RegressionCodec,
    config: PoseConfig,
    num_cycles: int,
) -> list[CycleMetrics]:
    """Predict everybody once; the metrics of 1, 2, ... ``num_cycles`` cycles.

    Each process predicts its own share of the people; computing a metric joins them.
    """
    device = next(model.parameters()).device
    flip_indices = data.skeleton.flip_indices if config.flip_test else None
    has_truth = data.val is data.truth
    metrics = [
        CycleMetrics(
            data.make_metric(),
            PCK(data.skeleton.num_keypoints, PCK_THRESHOLD) if has_truth else None,
        )
        for _ in range(num_cycles)
    ]
    for batch in evaluation_loader(data.val, config.eval_batch_size, config.num_workers):
        images = normalize_images(batch["image"].to(device))
        to_image = invert_matrix(batch["crop_matrix"])
        truth = transform_points(batch["keypoints"], to_image)
        cycles = predict_cycles(model, images, codec, num_cycles, flip_indices)
        for metric, (keypoints, scores) in zip(metrics, cycles, strict=True):
            found = transform_points(keypoints.cpu(), to_image)
            metric.ap.update(
                batch["image_id"], found, scores.cpu(), batch["box_xyxy"], batch["box_score"]
            )
            if metric.pck is not None:
                metric.pck.update(found, truth, batch["visible"], batch["box_xyxy"])
    return metrics


def scores_by_cycle(metrics: list[CycleMetrics]) -> dict[str, float]:
    """``{"AP/1": ..., "AP50/1": ..., "PCK/1": ..., "AP/2": ...}`` in percent.

    PCK counts keypoints nearer to the truth than 0.1 of the box's longer side.
    """
    scores: dict[str, float] = {}
    for cycle, metric in enumerate(metrics, start=1):
        found = metric.ap.compute()
        if metric.pck is not None:
            found["PCK"] = float(metric.pck.compute())
        scores |= {f"{name}/{cycle}": 100 * v for name, v in found.items() if v >= 0}
    return scores


def save_predictions(
    model: CycleWrapper,
    data: PoseData,
    codec: HeatmapCodec | RegressionCodec,
    config: PoseConfig,
    path: Path,
) -> None:
    """Write a picture of people with their true and predicted skeletons side by side.

    Where nobody is annotated, the detected people are drawn, and no truth.
    """
    device = next(model.parameters()).device
    shown = data.truth or data.val
    count = min(config.pictures, len(shown))
    chosen = torch.linspace(0, len(shown) - 1, count).round().int().tolist()
    people = torch.utils.data.Subset(shown, chosen)
    batch: dict[str, Any] = next(iter(pose_loader(people, batch_size=count)))
    images = normalize_images(batch["image"].to(device))
    flip_indices = data.skeleton.flip_indices if config.flip_test else None
    cycles = predict_cycles(model, images, codec, config.training_cycles, flip_indices)
    labels = ["1 cycle", *(f"{cycle} cycles" for cycle in range(2, len(cycles) + 1))]
    picture = prediction_grid(
        np.asarray(batch["image"]),
        {label: keypoints for label, (keypoints, _) in zip(labels, cycles, strict=True)},
        None if data.truth is None else batch["keypoints"],
        visible=batch["visible"],
        skeleton=data.skeleton,
    )
    save_picture(path, picture)
