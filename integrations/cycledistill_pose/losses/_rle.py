"""Residual log-likelihood of coordinates."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cycledistill._checks import check_choice
from cycledistill_pose._checks import check_shape
from cycledistill_pose.losses._real_nvp import RealNVP

Distribution = Literal["laplace", "gaussian"]

# Added to sigma where errors are divided by it.
_EPSILON = 1e-9


class RLELoss(nn.Module):
    """Residual log-likelihood estimation: a regression loss that learns its own distribution.

    >>> import torch
    >>> criterion = RLELoss(distribution="laplace")
    >>> outputs = torch.zeros(2, 17, 4)  # x, y, raw sigma_x, raw sigma_y
    >>> loss = criterion(outputs, torch.zeros(2, 17, 2), torch.ones(2, 17))
    >>> loss.backward()  # reaches the flow's parameters too
    >>> len(list(criterion.parameters()))
    72

    With sigma = sigmoid(raw sigma), e = (mu - target) / (sigma + 1e-9) on both axes and phi the
    density of a `RealNVP` flow at the pair of errors, the loss of a keypoint is the sum over axes
    of

        log sigma - log phi(e) + log(2 sigma) + |e|                            (Laplace)
        log sigma - log phi(e) + log(sqrt(2 pi) sigma) + e^2 / 2               (Gaussian)

    times the keypoint's weight; these are summed over keypoints and divided by the batch size.
    Losses below zero are normal: densities exceed one.

    The flow is a density of *both* errors together, yet the sum over axes counts its logarithm
    twice. So do the released implementations, and values here are theirs. With
    `log_phi_per_axis=False` it is counted once, and then the loss is the sum of two negative
    log-likelihoods of the target, each of a density that integrates to one: that of the flow,
    phi(e) / (sigma_x sigma_y), which `log_prob` returns, and that of the base distribution; with
    `residual=False` the first alone.

    The flow belongs to the loss: give `criterion.parameters()` to the optimiser and save
    `criterion.state_dict()` with the model's; inference does not need it. Parameter names are those
    of the released implementations (`flow_model.s.0.0.weight`, ...).

    All is computed in the dtype of the flow's parameters (float32), under autocast too, and from
    the logarithm of sigma, so that value and gradient stay finite for sigmas that float32 rounds
    to 0 or 1 and for errors far outside of the input.

    Source: Li et al., "Human Pose Regression with Residual Log-likelihood Estimation", ICCV 2021.

    Args:
        distribution: The base distribution, "laplace" or "gaussian".
        residual: Count the base distribution's terms, so that the flow learns only what remains.
        log_phi_per_axis: Count log phi once for each axis, as released; False counts it once.

    Raises:
        ValueError: Distribution is neither.
    """

    def __init__(
        self,
        distribution: Distribution = "laplace",
        residual: bool = True,
        log_phi_per_axis: bool = True,
    ) -> None:
        super().__init__()
        check_choice("distribution", distribution, *get_args(Distribution))
        self.distribution = distribution
        self.residual = residual
        self.log_phi_per_axis = log_phi_per_axis
        self.flow_model = RealNVP()

    def forward(self, outputs: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        """The loss, a scalar of any sign.

        Args:
            outputs: `[B, K, 4]`: x, y, raw sigma_x, raw sigma_y; positions normalised to the input
                size.
            target: `[B, K, 2]`, normalised likewise (`RegressionCodec.encode`). Where the weight
                is 0 it may be anything.
            weight: `[B, K]`. None: 1 for all.

        Raises:
            ValueError: The shapes do not match.
        """
        _check_shapes(outputs, target, weight)
        with torch.autocast(outputs.device.type, enabled=False):
            error, log_sigma = self._errors(outputs, target, weight)
            log_phi = self.flow_model.log_prob(error)
            loss = log_sigma.sum(dim=-1) - log_phi * (2 if self.log_phi_per_axis else 1)
            if self.residual:
                loss = loss - self._base_log_prob(error, log_sigma)
            if weight is not None:
                loss = loss * weight.to(loss.dtype)
            return loss.sum() / max(len(outputs), 1)

    def log_prob(self, outputs: Tensor, target: Tensor) -> Tensor:
        """The logarithm of the flow's density of the target, log phi(e) - log(sigma_x sigma_y).

        Args:
            outputs: `[B, K, 4]` as for the loss.
            target: `[B, K, 2]`.

        Returns:
            `[B, K]`; the density integrates to one over all targets.

        Raises:
            ValueError: The shapes do not match.
        """
        _check_shapes(outputs, target, None)
        with torch.autocast(outputs.device.type, enabled=False):
            error, log_sigma = self._errors(outputs, target, None)
            return self.flow_model.log_prob(error) - log_sigma.sum(dim=-1)

    def _errors(
        self, outputs: Tensor, target: Tensor, weight: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Errors in units of sigma and log sigma, both `[B, K, 2]`."""
        dtype = self.flow_model.mask.dtype
        mean, raw = outputs.to(dtype).split(2, dim=-1)
        difference = mean - target.to(dtype)
        if weight is not None:
            difference = difference.where((weight != 0)[..., None], 0.0)
        log_sigma = F.logsigmoid(raw)
        # 1 / (sigma + epsilon) by way of logarithms: its gradient is bounded by its value, where
        # that of the quotient overflows for the smallest sigmas.
        inverse = torch.exp(-torch.logaddexp(log_sigma, log_sigma.new_tensor(math.log(_EPSILON))))
        return difference * inverse, log_sigma

    def _base_log_prob(self, error: Tensor, log_sigma: Tensor) -> Tensor:
        """The logarithm of the base distribution's density of the target, `[B, K]`."""
        if self.distribution == "laplace":
            log_prob = -log_sigma - math.log(2) - error.abs()
        else:
            log_prob = -log_sigma - 0.5 * math.log(2 * math.pi) - 0.5 * error.square()
        return log_prob.sum(dim=-1)

    def extra_repr(self) -> str:
        """The arguments, for `repr`."""
        return (
            f"distribution={self.distribution!r}, residual={self.residual}, "
            f"log_phi_per_axis={self.log_phi_per_axis}"
        )


def _check_shapes(outputs: Tensor, target: Tensor, weight: Tensor | None) -> None:
    sizes = check_shape("outputs", outputs, "B K 4")
    check_shape("target", target, "B K 2", **sizes)
    if weight is not None:
        check_shape("weight", weight, "B K", **sizes)


def as_truth(task_loss: Callable[..., Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """The distance of a student from its teacher: the task loss, every keypoint visible.

    For `cycledistill.FoldLoss`. The truth is the teacher's heatmaps `[B, K, H, W]`; for `RLELoss`
    its coordinates, the first two of `[B, K, 4]`.
    """

    def distance(student: Tensor, teacher: Tensor) -> Tensor:
        target = teacher[..., :2] if isinstance(task_loss, RLELoss) else teacher
        return task_loss(student, target, target.new_ones(target.shape[:2]))

    return distance
