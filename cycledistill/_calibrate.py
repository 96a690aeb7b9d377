"""Choosing the tolerance of early exit for a given mean cost."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cycledistill._tokens import relative_changes
from cycledistill._tree import as_arguments
from cycledistill._wrapper import CycleWrapper


class ExitCalibration(NamedTuple):
    """The result of `calibrate_exit`.

    Attributes:
        tolerance: Value for ``exit_tolerance=``.
        mean_cycles: Mean number of cycles that the samples run with it.
        num_cycles: Largest number of cycles N, for ``num_cycles=``.
        counts: Number of samples that stop after 1, 2, ... N cycles.
    """

    tolerance: float
    mean_cycles: float
    num_cycles: int
    counts: tuple[int, ...]

    def __str__(self) -> str:
        """A one-line summary."""
        stops = ", ".join(f"{count} after {n}" for n, count in enumerate(self.counts, 1) if count)
        return (
            f"exit_tolerance={self.tolerance:.3g}: {self.mean_cycles:.2f} of {self.num_cycles} "
            f"cycles on average ({stops})"
        )


@torch.no_grad()
def calibrate_exit(
    cycled: CycleWrapper,
    loader: Iterable[Any],
    target: float,
    num_cycles: int | None = None,
    inputs: Callable[[Any], Any] | None = None,
) -> ExitCalibration:
    """Choose the tolerance with which samples run a given number of cycles on average.

    >>> import torch
    >>> from torch import nn
    >>> blocks = [nn.Sequential(nn.Linear(4, 4), nn.Tanh()) for _ in range(2)]
    >>> cycled = CycleWrapper(nn.Sequential(*blocks), num_cycles=2).eval()
    >>> batches = torch.randn(8, 16, 3, 4)
    >>> found = calibrate_exit(cycled, batches, target=3.0, num_cycles=4)
    >>> found.mean_cycles <= 3.0
    True
    >>> out = cycled(batches[0], num_cycles=4, exit_tolerance=found.tolerance)

    A sample stops after the first cycle, from the second on, that changes its tokens by less than
    the tolerance. Its cost is its number of cycles; with batched cycles, stem and head run only
    once.

    Args:
        cycled: The wrapped model, in eval mode.
        loader: Batches of validation data, on the model's device. Report results on other samples.
        target: Largest mean number of cycles, from 2 to ``num_cycles``.
        num_cycles: Largest number of cycles N, the wrapper's by default.
        inputs: A function that takes a batch and returns the model's inputs: a tensor, a tuple of
            positional arguments or a mapping of keyword arguments. By default, the first item of a
            tuple or list, else the batch.

    Returns:
        The tolerance whose mean number of cycles is the largest within ``target``.

    Raises:
        ValueError: The wrapper is in training mode, ``target`` is out of range, or the loader is
            empty.
    """
    cycles = cycled.num_cycles if num_cycles is None else num_cycles
    if cycled.training:
        raise ValueError("calibrate_exit needs eval mode: call cycled.eval()")
    if not 2 <= target <= cycles:
        raise ValueError(f"target: expected 2 to num_cycles={cycles} cycles, got {target}")
    found = [_changes(cycled, _chosen(batch, inputs), cycles) for batch in loader]
    if not found:
        raise ValueError("loader is empty, expected at least one batch")
    # A sample stops once its smallest change so far is below the tolerance.
    smallest = torch.cat(found, 1).cummin(0).values  # [N - 1, samples]
    changes = smallest[:-1].flatten().sort().values
    samples = smallest.shape[1]
    # Every change that is not below the tolerance costs its sample another cycle.
    above = min(math.floor(target * samples) - 2 * samples, len(changes))
    below = changes[: len(changes) - above]
    tolerance = torch.zeros(())  # stops no sample early
    if len(below):
        tolerance = torch.nextafter(below[-1], torch.full_like(below[-1], math.inf))
    run = 2 + (~(smallest[:-1] < tolerance)).sum(0)  # [samples]
    counts = torch.bincount(run, minlength=cycles + 1)[1:].tolist()
    return ExitCalibration(float(tolerance), float(run.double().mean()), cycles, tuple(counts))


def _changes(cycled: CycleWrapper, chosen: Any, cycles: int) -> Tensor:
    """Relative changes of a batch's tokens in cycles 2 to N, `[N - 1, B]`."""
    args, kwargs = as_arguments(chosen)
    tokens = cycled.forward_cycles(*args, num_cycles=cycles, **kwargs).tokens
    dim = cycled._setup.batch_dim
    return torch.stack([relative_changes(a, b, dim) for a, b in pairwise(tokens)]).cpu()


def _chosen(batch: Any, inputs: Callable[[Any], Any] | None) -> Any:
    if inputs is not None:
        return inputs(batch)
    return batch[0] if isinstance(batch, (tuple, list)) else batch
