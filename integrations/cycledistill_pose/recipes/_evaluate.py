"""AP after every number of cycles, and the picture of predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from rich.table import Table

from cycledistill import CycleWrapper
from cycledistill.training.processes import evaluation_loader
from cycledistill_pose.checkpoints._plain import SHOWN_SCORES
from cycledistill_pose.codecs import HeatmapCodec, RegressionCodec
from cycledistill_pose.data import invert_matrix, normalize_images, pose_loader, transform_points
from cycledistill_pose.drawing import prediction_grid, save_picture
from cycledistill_pose.metrics import PCK, CocoKeypointAP, CrowdPoseAP
from cycledistill_pose.prediction import predict_cycles
from cycledistill_pose.recipes._people import EvaluationPeople

PCK_THRESHOLD = 0.1
_Scored = tuple[Sequence[str], Mapping[str, float]]


class CycleMetrics(NamedTuple):
    """Metrics of one number of cycles; ``pck`` is None for detected boxes, which have no truth."""

    ap: CocoKeypointAP | CrowdPoseAP
    pck: PCK | None

    def scores(self) -> dict[str, float]:
        """Percent by metric. PCK counts keypoints nearer than 0.1 of the box's longer side."""
        found = self.ap.compute()
        if self.pck is not None:
            found["PCK"] = float(self.pck.compute())
        return {name: 100 * value for name, value in found.items() if value >= 0}


def evaluate_cycles(
    model: CycleWrapper,
    people: EvaluationPeople,
    codec: HeatmapCodec | RegressionCodec,
    num_cycles: int,
    flip_indices: Sequence[int] | None = None,
    num_workers: int = 0,
) -> list[CycleMetrics]:
    """Metrics after 1, 2, ... ``num_cycles`` cycles; every person is predicted once.

    Each process predicts its share of the people; computing a metric combines them.

    Args:
        model: The network, in eval mode.
        people: The people to predict.
        codec: The network's.
        num_cycles: The most cycles.
        flip_indices: For the flip test; see `predict_cycles`.
        num_workers: Processes that load images.
    """
    device = next(model.parameters()).device
    crops = people.crops(codec.input_size, codec.udp_crops)
    num_keypoints = people.skeleton.num_keypoints
    # On the device, because processes that train on GPUs cannot exchange states on the CPU.
    metrics = [
        CycleMetrics(
            people.metric().to(device),
            None if people.boxes else PCK(num_keypoints, PCK_THRESHOLD).to(device),
        )
        for _ in range(num_cycles)
    ]
    size = people.options.eval_batch_size
    batches = evaluation_loader(crops, size, num_workers)
    # Their places, so that two people in boxes of the same place and score are two.
    places = evaluation_loader(range(len(crops)), size)
    for batch, ids in zip(batches, places, strict=True):
        images = normalize_images(batch["image"].to(device))
        to_image = invert_matrix(batch["crop_matrix"])
        truth = transform_points(batch["keypoints"], to_image)
        cycles = predict_cycles(model, images, codec, num_cycles, flip_indices)
        for metric, (keypoints, scores) in zip(metrics, cycles, strict=True):
            found = transform_points(keypoints.cpu(), to_image)
            boxes = (batch["box_xyxy"], batch["box_score"])
            metric.ap.update(batch["image_id"], found, scores.cpu(), *boxes, ids)
            if metric.pck is not None:
                seen = (found, truth, batch["visible"], batch["box_xyxy"])
                metric.pck.update(*(values.to(device) for values in seen))
    return metrics


def scores_by_cycle(metrics: Sequence[CycleMetrics]) -> dict[str, float]:
    """``{"AP/1": ..., "AP50/1": ..., "PCK/1": ..., "AP/2": ...}`` in percent."""
    return {
        f"{name}/{cycle}": value
        for cycle, metric in enumerate(metrics, start=1)
        for name, value in metric.scores().items()
    }


def scores_table(title: str, labels: Sequence[str], rows: Sequence[_Scored]) -> Table:
    """Scores in percent; a row is one cell for each label, then its scores by metric."""
    names = [name for name in SHOWN_SCORES if any(name in scores for _, scores in rows)]
    table = Table(title=title)
    for name in (*labels, *names):
        table.add_column(name, justify="left" if name == "network" else "right")
    for cells, scores in rows:
        figures = (f"{scores[name]:.1f}" if name in scores else "-" for name in names)
        table.add_row(*cells, *figures)
    return table


def save_predictions(
    path: Path,
    model: CycleWrapper,
    people: EvaluationPeople,
    codec: HeatmapCodec | RegressionCodec,
    num_cycles: int,
    flip_indices: Sequence[int] | None = None,
    count: int = 12,
) -> None:
    """Write a picture of people with their true and predicted skeletons side by side.

    If no people are annotated with boxes, the detected ones are drawn, without truth.
    """
    device = next(model.parameters()).device
    shown = people.annotated
    crops = shown.crops(codec.input_size, codec.udp_crops)
    count = min(count, len(crops))
    chosen = torch.linspace(0, len(crops) - 1, count).round().int().tolist()
    batch = next(iter(pose_loader(torch.utils.data.Subset(crops, chosen), batch_size=count)))
    images = normalize_images(batch["image"].to(device))
    cycles = predict_cycles(model, images, codec, num_cycles, flip_indices)
    labels = ["1 cycle", *(f"{cycle} cycles" for cycle in range(2, num_cycles + 1))]
    picture = prediction_grid(
        np.asarray(batch["image"]),
        {label: keypoints for label, (keypoints, _) in zip(labels, cycles, strict=True)},
        batch["keypoints"] if shown.boxes is None else None,
        visible=batch["visible"],
        skeleton=people.skeleton,
    )
    save_picture(path, picture)
