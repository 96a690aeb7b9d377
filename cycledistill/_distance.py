"""Distances between a student's and a teacher's tokens or predictions."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

Distance: TypeAlias = Callable[[Any, Any], Tensor]
"""A function of (student, teacher) that returns a scalar."""


def mse(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean of the squared differences over all elements (SDPose eq. 1 and 2)."""
    _check_pair("mse", student, teacher)
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
    _check_pair("kl", student, teacher)
    if student.ndim < 2 or student.shape[-1] < 2:
        raise ValueError(
            f"'kl': expected logits [..., C] of two or more classes, got {list(student.shape)}"
        )
    if student.ndim > 3:  # of segmentation, most likely, whose classes are not last
        raise ValueError(
            f"'kl': expected logits [B, C] or [B, T, C], the classes last, got "
            f"{list(student.shape)}. For maps [B, C, H, W] pass a function of (student, teacher)"
        )
    student_log = F.log_softmax(student / temperature, dim=-1).flatten(0, -2)
    teacher_log = F.log_softmax(teacher / temperature, dim=-1).flatten(0, -2)
    # A class without probability, such as one that is masked with -inf, adds 0, not 0 * inf.
    none = teacher_log == -math.inf
    student_log = student_log.masked_fill(none, 0.0)
    teacher_log = teacher_log.masked_fill(none, torch.finfo(teacher_log.dtype).min)
    divergence = F.kl_div(student_log, teacher_log, reduction="batchmean", log_target=True)
    return divergence * temperature**2


def _check_pair(name: str, student: Any, teacher: Any) -> None:
    """Check that these are tensors of the same shape, which torch would broadcast otherwise.

    Raises:
        TypeError: One is not a tensor.
        ValueError: Their shapes differ.
    """
    for prediction in (student, teacher):
        if not isinstance(prediction, Tensor):
            raise TypeError(
                f"{name!r}: expected predictions that are tensors, got "
                f"{type(prediction).__name__}. Pass a function of (student, teacher) instead"
            )
    if student.shape != teacher.shape:
        raise ValueError(
            f"{name!r}: expected a teacher's prediction {list(student.shape)} like the student's, "
            f"got {list(teacher.shape)}"
        )


def choose_token_distance(distance: str | Distance) -> Distance:
    """The distance between tokens with this name, or the given function.

    Raises:
        ValueError: The name is unknown.
    """
    return _choose("distance", distance, {"mse": mse, "smooth_l1": smooth_l1, "cosine": cosine})


def choose_prediction_distance(distance: str | Distance, temperature: float) -> Distance:
    """The distance between predictions with this name, or the given function.

    Args:
        distance: ``"kl"``, ``"mse"`` or a function of (student, teacher).
        temperature: Softening of ``"kl"``.

    Raises:
        ValueError: The name is unknown, or the temperature is not above 0.
    """
    if not temperature > 0:
        raise ValueError(f"temperature: expected a number above 0, got {temperature}")
    known: dict[str, Distance] = {"kl": partial(kl, temperature=temperature), "mse": mse}
    return _choose("prediction_distance", distance, known)


def as_scalar(name: str, loss: Any) -> Tensor:
    """A loss or a distance as a tensor without dimensions.

    Raises:
        ValueError: It is not one number.
    """
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        found = f"shape {list(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise ValueError(f"{name}: expected it to return a scalar tensor, got {found}")
    return loss.reshape(())


def at_least_float32(tensor: Tensor) -> Tensor:
    """Half-precision tensors in float32, others unchanged."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def _choose(name: str, value: str | Distance, known: Mapping[str, Distance]) -> Distance:
    if callable(value):
        return value
    if value not in known:
        names = ", ".join(map(repr, known))
        raise ValueError(f"{name}: expected {names} or a function, got {value!r}")
    return known[value]
