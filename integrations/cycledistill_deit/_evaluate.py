"""Accuracy after every number of cycles."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torchmetrics.classification import MulticlassAccuracy

from cycledistill import CycleWrapper


@torch.no_grad()
def cycle_accuracies(
    model: CycleWrapper,
    batches: Iterable[tuple[Tensor, Tensor]],
    num_classes: int,
    num_cycles: int,
) -> dict[str, float]:
    """Top-1 accuracy in percent after 1, 2, ... ``num_cycles`` cycles.

    Each process passes its own batches; the result is that of all of them.

    Args:
        model: The wrapped model, in eval mode.
        batches: Images `[B, C, S, S]` and labels `[B]`.
        num_classes: Classes K.
        num_cycles: Largest number of cycles.

    Returns:
        ``{"accuracy/1": ..., "accuracy/2": ...}``.
    """
    device = next(model.parameters()).device
    metrics = [
        MulticlassAccuracy(num_classes, average="micro").to(device) for _ in range(num_cycles)
    ]
    for images, labels in batches:
        output = model.forward_cycles(images.to(device), num_cycles=num_cycles)
        for metric, logits in zip(metrics, output.predictions, strict=True):
            metric.update(logits, labels.to(device))
    return {
        f"accuracy/{cycle}": 100 * float(metric.compute())
        for cycle, metric in enumerate(metrics, start=1)
    }
