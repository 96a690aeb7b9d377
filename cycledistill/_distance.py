"""Distances between a student's and a teacher's tokens or predictions."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

Distance: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""A function of (student, teacher), of one shape, that returns a scalar."""


def mse(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean of the squared differences over all elements (SDPose eq. 1 and 2)."""
    return F.mse_loss(student, teacher)


def smooth_l1(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean of the smooth L1 differences over all elements, quadratic below 1."""
    return F.smooth_l1_loss(student, teacher)


def cosine(student: Tensor, teacher: Tensor) -> Tensor:
    """One minus the cosine of the angle between tokens `[..., D]`, averaged over the tokens."""
    return (1 - F.cosine_similarity(student, teacher, dim=-1)).mean()


def kl(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """Kullback-Leibler divergence of softened class distributions from logits `[..., C]`.

    The mean over all distributions of KL(teacher || student), times the squared temperature so
    that gradients keep their scale (Hinton et al., arXiv 1503.02531).
    """
    if not isinstance(student, Tensor):
        raise TypeError(
            f"'kl': expected a tensor of logits as prediction, got {type(student).__name__}. Give "
            "a function of (student, teacher) that takes the logits out of it"
        )
    student_log = F.log_softmax(student / temperature, dim=-1).flatten(0, -2)
    teacher_log = F.log_softmax(teacher / temperature, dim=-1).flatten(0, -2)
    divergence = F.kl_div(student_log, teacher_log, reduction="batchmean", log_target=True)
    return divergence * temperature**2


TOKEN_DISTANCES: dict[str, Distance] = {"mse": mse, "smooth_l1": smooth_l1, "cosine": cosine}


def at_least_float32(tensor: Tensor) -> Tensor:
    """Half-precision tensors in float32, others as they are."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
