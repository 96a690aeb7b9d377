"""Percentage of correct keypoints."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from cycledistill_pose._checks import check_shape


def pck(
    keypoints: Tensor, targets: Tensor, visible: Tensor, sizes: Tensor, threshold: float = 0.2
) -> Tensor:
    """Percentage of correct keypoints (those close to the truth), averaged over keypoints.

    >>> import torch
    >>> targets = torch.zeros(1, 2, 2)
    >>> keypoints = torch.tensor([[[3.0, 4.0], [30.0, 40.0]]])
    >>> pck(keypoints, targets, torch.ones(1, 2), sizes=torch.tensor([100.0]))
    tensor(0.5000)

    Args:
        keypoints: `[B, K, 2]` px.
        targets: `[B, K, 2]` px, the truth.
        visible: `[B, K]`; only keypoints with a value above 0 count.
        sizes: `[B]` px, the unit of distances, such as the longest side of the box, the torso or
            the head. People whose size is not positive are not counted.
        threshold: A keypoint is correct when it is nearer than this share of the size.

    Returns:
        A scalar from 0 to 1: the share of correct ones among the counted ones of each keypoint,
        averaged over the keypoints that were counted at all; NaN where none was.

    Raises:
        ValueError: The shapes do not match, or a visible target is not finite.
    """
    return _mean_share(*_count(keypoints, targets, visible, sizes, threshold))


class PCK(Metric):
    """Percentage of correct keypoints, over batches and processes.

    >>> import torch
    >>> metric = PCK(num_keypoints=2, threshold=0.2)
    >>> metric.update(
    ...     keypoints=torch.tensor([[[3.0, 4.0], [30.0, 40.0]]]),
    ...     targets=torch.zeros(1, 2, 2),
    ...     visible=torch.ones(1, 2),
    ...     boxes_xyxy=torch.tensor([[0.0, 0.0, 50.0, 100.0]]),
    ... )
    >>> metric.compute()
    tensor(0.5000)

    Distances are measured by the longest side of the person's box, or by the distance between two
    of the person's own annotated keypoints (such as a shoulder and the opposite hip for the
    torso); then people without both are not counted. For what is counted, see `pck`.

    Args:
        num_keypoints: K.
        threshold: A keypoint is correct when it is nearer than this share of the person's size.
        size: "box", or the indices of two keypoints.
        **kwargs: Those of `torchmetrics.Metric`.

    Raises:
        ValueError: An argument is out of range.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    correct: Tensor
    counted: Tensor

    def __init__(
        self,
        num_keypoints: int = 17,
        threshold: float = 0.2,
        size: str | tuple[int, int] = "box",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not threshold > 0:
            raise ValueError(f"threshold: expected a positive number, got {threshold}")
        if isinstance(size, str) and size != "box":
            raise ValueError(f'size: expected "box" or the indices of two keypoints, got {size!r}')
        if not isinstance(size, str) and not (
            len(size) == 2 and all(0 <= index < num_keypoints for index in size)
        ):
            raise ValueError(
                f"size: expected indices of two of {num_keypoints} keypoints, got {size}"
            )
        self.num_keypoints = num_keypoints
        self.threshold = threshold
        self.size = size
        zeros = torch.zeros(num_keypoints, dtype=torch.int64)
        self.add_state("correct", default=zeros, dist_reduce_fx="sum")
        self.add_state("counted", default=zeros.clone(), dist_reduce_fx="sum")

    def update(
        self,
        keypoints: Tensor,
        targets: Tensor,
        visible: Tensor,
        boxes_xyxy: Tensor | None = None,
    ) -> None:
        """Count people.

        Args:
            keypoints: `[B, K, 2]` px.
            targets: `[B, K, 2]` px, the truth.
            visible: `[B, K]`; only keypoints with a value above 0 count.
            boxes_xyxy: `[B, 4]` px of the same image; needed where `size` is "box".

        Raises:
            ValueError: A shape is wrong, boxes are missing, or a visible target is not finite.
        """
        check_shape("targets", targets, "B K 2", K=self.num_keypoints)
        if not isinstance(self.size, str):
            first, second = self.size
            sizes = _distances(targets[:, first], targets[:, second])
            sizes = sizes * ((visible[:, first] > 0) & (visible[:, second] > 0))
        elif boxes_xyxy is None:
            raise ValueError('boxes_xyxy: expected boxes, because size is "box", got None')
        else:
            check_shape("boxes_xyxy", boxes_xyxy, "B 4", B=len(targets))
            sizes = (boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]).amax(dim=-1)
        correct, counted = _count(keypoints, targets, visible, sizes, self.threshold)
        self.correct += correct
        self.counted += counted

    def compute(self) -> Tensor:
        """The mean of the keypoints' shares, a scalar from 0 to 1; NaN where none was counted."""
        return _mean_share(self.correct, self.counted)

    def per_keypoint(self) -> Tensor:
        """The share of each keypoint on this process, `[K]`; NaN for those not counted."""
        return self.correct / self.counted


def _count(
    keypoints: Tensor, targets: Tensor, visible: Tensor, sizes: Tensor, threshold: float
) -> tuple[Tensor, Tensor]:
    """How often each keypoint was correct and how often it was counted, `[K]` each."""
    axes = check_shape("keypoints", keypoints, "B K 2")
    check_shape("targets", targets, "B K 2", **axes)
    check_shape("visible", visible, "B K", **axes)
    check_shape("sizes", sizes, "B", **axes)
    counted = (visible > 0) & (sizes > 0)[:, None]
    if not targets[visible > 0].isfinite().all():
        raise ValueError("targets: expected finite numbers where visible, got NaN or infinity")
    near = _distances(keypoints, targets) < threshold * sizes[:, None]
    return (near & counted).sum(dim=0), counted.sum(dim=0)


def _distances(points: Tensor, others: Tensor) -> Tensor:
    """`[...]` between points `[..., 2]`, in float32 or float64."""
    difference = points - others
    return difference.to(torch.promote_types(difference.dtype, torch.float32)).norm(dim=-1)


def _mean_share(correct: Tensor, counted: Tensor) -> Tensor:
    return (correct / counted)[counted > 0].mean()
