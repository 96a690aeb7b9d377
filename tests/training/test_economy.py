"""What a step does not do: wait for the device more than twice."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from cycledistill import CycleDistillLoss, CycleOutput
from cycledistill.training import Trainer
from cycledistill.training._module import read_terms, terms_of

READS = ("item", "tolist", "cpu", "numpy", "__float__", "__bool__", "__int__", "__index__")


def count_reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """From now on, the name of every call that brings a tensor's floats to Python.

    The order of the samples and the seeds are whole numbers, and on the CPU on any device.
    """
    found: list[str] = []

    def watch(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
            if tensor.is_floating_point():
                found.append(name)
            return original(tensor, *args, **kwargs)

        return call

    for name in READS:
        monkeypatch.setattr(Tensor, name, watch(name, getattr(Tensor, name)))
    return found


@pytest.mark.parametrize("accumulate", [1, 4])
def test_a_step_reads_from_the_device_twice(
    toy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, accumulate: int
) -> None:
    """All microbatches' losses at once, then the norm of the gradient."""
    train_step, reads = Trainer.train_step, []

    def counted(self: Trainer, batches: Iterator[Any]) -> Any:
        loaded = [next(batches) for _ in range(accumulate)]
        with monkeypatch.context() as watched:
            found = count_reads(watched)
            outcome = train_step(self, iter(loaded))
        reads.append(found)
        return outcome

    monkeypatch.setattr(Trainer, "train_step", counted)
    # SGD: an Adam that is not fused reads its count of steps for every parameter on the CPU.
    config = toy.default_config(tmp_path, accumulate=accumulate, epochs=1)
    toy.train(config, size=16, optimizer=torch.optim.SGD, min_cycles=None)
    assert reads == [["tolist", "__float__"]] * 2


def test_what_is_read_together_is_what_was_read_apart() -> None:
    torch.manual_seed(0)
    kept, apart = [], []
    for dtype in (torch.float32, torch.float64):
        maps = [torch.randn(2, 3, dtype=dtype, requires_grad=True) for _ in range(2)]
        tokens = [torch.randn(2, 5, 4, dtype=dtype) for _ in range(2)]
        output = CycleOutput(tuple(maps), tuple(tokens))
        groups = {"first": slice(0, 2), "rest": slice(2, None)}
        criterion = CycleDistillLoss(torch.nn.MSELoss(), token_groups=groups, prediction_weight=0.5)
        losses = criterion(output, torch.zeros(2, 3, dtype=dtype))
        kept.append(terms_of(losses))
        apart.append(
            {
                "loss": losses.total.item(),
                "task/1": losses.task[0].item(),
                "task/2": losses.task[1].item(),
                "predictions/1": losses.predictions[0].item(),
                "tokens/first/1": losses.tokens["first"][0].item(),
                "tokens/rest/1": losses.tokens["rest"][0].item(),
                "scale/1": losses.scales[0].item(),
                "scale/2": losses.scales[1].item(),
            }
        )
        assert not kept[-1][1].requires_grad  # a graph that is kept keeps its memory
    assert read_terms(kept) == apart
