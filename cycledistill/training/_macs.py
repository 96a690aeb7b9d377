"""Multiply-accumulates of a model in use and in training."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


class RunMacs(NamedTuple):
    """Multiply-accumulates of one sample, attention's matrix products among them.

    Attributes:
        in_use: One pass in eval mode.
        training: One pass forward and backward in training mode, over all its cycles, what
            activation checkpointing computes again included; the loss is not.
    """

    in_use: int
    training: int


def count_run_macs(model: nn.Module, sample: Tensor, cycles_in_use: int = 1) -> RunMacs:
    """Count what a sample costs, on a copy of the model, with torch's flop counter.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 8, bias=False), nn.Linear(8, 1, bias=False))
        >>> count_run_macs(model, torch.zeros(4))
        RunMacs(in_use=40, training=88)

    Training costs up to three times as much as use: backward, each layer computes a gradient of
    its weights and, but for the first, of its input. A ``CycleWrapper`` with a random number of
    cycles is counted with its largest. Norms, activations and additions do not count.

    Args:
        model: Called with one tensor.
        sample: Its input without the batch dimension, on any device.
        cycles_in_use: Cycles that the trained model is used with.
    """
    trial: Any = copy.deepcopy(model)
    if getattr(trial, "min_cycles", None) is not None:
        trial.min_cycles = None
    like = next(model.parameters(), sample)
    batch = torch.stack([sample, sample]).to(like)  # two: batch norm in training needs several
    options = {"num_cycles": cycles_in_use} if cycles_in_use > 1 else {}
    with torch.no_grad():
        in_use = _count(lambda: trial.eval()(batch, **options))

    def learn() -> None:
        outputs = [part for part in _tensors(trial(batch)) if part.requires_grad]
        sum(part.float().sum() for part in outputs).backward()  # type: ignore[union-attr]

    trial.train()(batch)  # what a wrapper checks in its first call is no cost of training
    return RunMacs(in_use // 2, _count(learn) // 2)


def format_macs(macs: float) -> str:
    """A count with three digits and a unit.

    Example:
        >>> format_macs(2.3801e9), format_macs(7.1e18)
        ('2.38 G', '7.1 E')
    """
    for power, unit in ((18, "E"), (15, "P"), (12, "T"), (9, "G"), (6, "M"), (3, "k")):
        if macs >= 10**power:
            return f"{macs / 10**power:.3g} {unit}"
    return f"{macs:.0f}"


def _count(function: Any) -> int:
    counter = FlopCounterMode(display=False)
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # hides its products from the counter
    try:
        with sdpa_kernel(SDPBackend.MATH), counter:
            function()
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
    return counter.get_total_flops() // 2


def _tensors(tree: Any) -> Iterator[Tensor]:
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, Mapping):
        for part in tree.values():
            yield from _tensors(part)
    elif isinstance(tree, (list, tuple)):
        for part in tree:
            yield from _tensors(part)
