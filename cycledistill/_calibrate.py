"""Choosing the threshold of early exit for a given mean cost."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from cycledistill._checks import check_choice
from cycledistill._exit import confidences
from cycledistill._tokens import relative_changes
from cycledistill._tree import as_arguments
from cycledistill._wrapper import CycleWrapper


class ExitCalibration(NamedTuple):
    """The result of `calibrate_exit`.

    Attributes:
        tolerance: Value for ``exit_tolerance=``; None by confidence.
        mean_cycles: Mean number of cycles that the samples run with it.
        num_cycles: Largest number of cycles N, for ``num_cycles=``.
        counts: Number of samples that stop after 1, 2, ... N cycles.
        confidence: Value for ``exit_confidence=``; None by tokens.
    """

    tolerance: float | None
    mean_cycles: float
    num_cycles: int
    counts: tuple[int, ...]
    confidence: float | None = None

    def __str__(self) -> str:
        """A one-line summary."""
        stops = ", ".join(f"{count} after {n}" for n, count in enumerate(self.counts, 1) if count)
        name = "tolerance" if self.confidence is None else "confidence"
        return (
            f"exit_{name}={getattr(self, name):.3g}: {self.mean_cycles:.2f} of {self.num_cycles} "
            f"cycles on average ({stops})"
        )


@torch.no_grad()
def calibrate_exit(
    cycled: CycleWrapper,
    loader: Iterable[Any],
    target: float,
    num_cycles: int | None = None,
    inputs: Callable[[Any], Any] | None = None,
    by: Literal["tokens", "confidence"] = "tokens",
) -> ExitCalibration:
    """Choose the threshold with which samples run a given number of cycles on average.

    >>> import torch
    >>> from torch import nn
    >>> blocks = [nn.Sequential(nn.Linear(4, 4), nn.Tanh()) for _ in range(2)]
    >>> cycled = CycleWrapper(nn.Sequential(*blocks), num_cycles=2).eval()
    >>> batches = torch.randn(8, 16, 3, 4)
    >>> found = calibrate_exit(cycled, batches, target=3.0, num_cycles=4)
    >>> found.mean_cycles <= 3.0
    True
    >>> out = cycled(batches[0], num_cycles=4, exit_tolerance=found.tolerance)

    By tokens, a sample stops after the first cycle, from the second on, that changes its tokens by
    less than the tolerance. By confidence, it stops after the first cycle in which the highest
    probability of its prediction is large enough; this needs a network that was trained to predict
    in each of these cycles. Its cost is its number of cycles; with batched cycles, stem and head
    run only once.

    Args:
        cycled: The wrapped model, in eval mode.
        loader: Batches of validation data, on the model's device. Report results on other samples.
        target: Largest mean number of cycles, from 2 (by confidence 1) to ``num_cycles``.
        num_cycles: Largest number of cycles N, the wrapper's by default.
        inputs: A function that takes a batch and returns the model's inputs: a tensor, a tuple of
            positional arguments or a mapping of keyword arguments. By default, the first item of a
            tuple or list, else the batch.
        by: What stops a sample.

    Returns:
        The threshold whose mean number of cycles is the largest within ``target``.

    Raises:
        ValueError: The wrapper is in training mode, ``target`` is out of range, the loader is
            empty or, by confidence, the model returns no logits.
    """
    cycles = cycled.num_cycles if num_cycles is None else num_cycles
    if cycled.training:
        raise ValueError("calibrate_exit needs eval mode: call cycled.eval()")
    check_choice("by", by, "tokens", "confidence")
    first = 2 if by == "tokens" else 1
    if not first <= target <= cycles:
        raise ValueError(f"target: expected {first} to num_cycles={cycles} cycles, got {target}")
    measure = _changes if by == "tokens" else _doubts
    found: list[Tensor] = []
    for batch in loader:
        chosen = _chosen(batch, inputs)
        found.append(measure(cycled, chosen, cycles))
    if not found:
        raise ValueError("loader is empty, expected at least one batch")
    # A sample stops once its smallest value so far is at most the limit.
    smallest = torch.cat(found, 1).cummin(0).values  # [N - first + 1, samples]
    values = smallest[:-1].flatten().sort().values
    samples = smallest.shape[1]
    # Every value above the limit costs its sample another cycle.
    above = min(math.floor(target * samples) - first * samples, len(values))
    below = values[: len(values) - above]
    limit = below[-1] if len(below) else torch.tensor(-math.inf)  # which stops no sample early
    run = first + (~(smallest[:-1] <= limit)).sum(0)  # [samples]
    mean = float(run.double().mean())
    counts = tuple(torch.bincount(run, minlength=cycles + 1)[1:].tolist())
    if by == "confidence":
        calibration = ExitCalibration(None, mean, cycles, counts, -float(limit))
    else:
        tolerance = torch.nextafter(limit, torch.full_like(limit, math.inf)).clamp_min(0)
        calibration = ExitCalibration(float(tolerance), mean, cycles, counts)
    if len(run[-found[-1].shape[1] :].unique()) > 1:
        _warn_if_whole(cycled, chosen, calibration)
    return calibration


def _warn_if_whole(cycled: CycleWrapper, chosen: Any, found: ExitCalibration) -> None:
    """Warn if all samples of a batch stop at once, although their thresholds differ."""
    args, kwargs = as_arguments(chosen)
    limits = {"exit_tolerance": found.tolerance, "exit_confidence": found.confidence}
    cycled(*args, num_cycles=found.num_cycles, **limits, **kwargs)
    if cycled.sample_cycles is not None and len(cycled.sample_cycles.unique()) == 1:
        warnings.warn(
            f"the samples of a batch of {type(cycled.plain).__name__} run as many cycles as the "
            "slowest of them, because the batch dimension of an input is unclear or random numbers "
            f"are drawn for them: {found.mean_cycles:.2f} cycles are the mean of single samples",
            UserWarning,
            stacklevel=4,
        )


def _changes(cycled: CycleWrapper, chosen: Any, cycles: int) -> Tensor:
    """Relative changes of a batch's tokens in cycles 2 to N, `[N - 1, B]`."""
    args, kwargs = as_arguments(chosen)
    tokens = cycled.forward_cycles(*args, num_cycles=cycles, **kwargs).tokens
    dim = cycled._setup.batch_dim
    return torch.stack([relative_changes(a, b, dim) for a, b in pairwise(tokens)]).cpu()


def _doubts(cycled: CycleWrapper, chosen: Any, cycles: int) -> Tensor:
    """Negative confidences of a batch's predictions in cycles 1 to N, `[N, B]`."""
    args, kwargs = as_arguments(chosen)
    predictions = cycled.forward_cycles(*args, num_cycles=cycles, **kwargs).predictions
    return -torch.stack([confidences(prediction) for prediction in predictions]).cpu()


def _chosen(batch: Any, inputs: Callable[[Any], Any] | None) -> Any:
    if inputs is not None:
        return inputs(batch)
    return batch[0] if isinstance(batch, (tuple, list)) else batch
