"""A teacher's prediction in the place of the truth."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from cycledistill_pose.losses._rle import RLELoss


def as_truth(task_loss: Callable[..., Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """The distance of a student from its teacher: the task loss, every keypoint visible.

    For `cycledistill.FoldLoss`. The truth is the teacher's heatmaps `[B, K, H, W]`; for `RLELoss`
    its coordinates, the first two of `[B, K, 4]`.
    """

    def distance(student: Tensor, teacher: Tensor) -> Tensor:
        target = teacher[..., :2] if isinstance(task_loss, RLELoss) else teacher
        return task_loss(student, target, target.new_ones(target.shape[:2]))

    return distance
