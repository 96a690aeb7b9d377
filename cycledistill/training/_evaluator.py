"""Evaluations during a run, and which was the best."""

from __future__ import annotations

import contextlib
import copy
import math
import types
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from torch import nn

from cycledistill.training._ema import MovingAverage
from cycledistill.training._parallel import broadcast_buffers, broadcast_value
from cycledistill.training._seeding import seeded
from cycledistill.training._state import load_module_state, module_state

Evaluate = Callable[[Any], Mapping[str, float]]


class BestEvaluation(NamedTuple):
    """The best evaluation of a run.

    Attributes:
        metric: Name of the metric that decides.
        value: Its value.
        epoch: Epoch (from 0) at whose end it was reached.
        step: Steps done by then.
        checkpoint: Folder of the checkpoint, for ``load_weights``.
    """

    metric: str
    value: float
    epoch: int
    step: int
    checkpoint: Path


class Evaluator:
    """Calls the user's ``evaluate`` with the weights that count, and keeps the best result.

    These are the moving average where there is one; sharded weights are gathered. In both cases
    they are put into a copy of the model.

    Args:
        evaluate: The user's function.
        metric: Name of the metric that decides which checkpoint is best.
        lower_is_better: Whether it is the smaller value that is better.
        accelerator: The run's.
        model: The model in training.
        replica: An unsharded copy of it for these weights, or ``None`` to use the model itself.
        average: The moving average.
        seed: Seed of random numbers during evaluation.
    """

    def __init__(
        self,
        evaluate: Evaluate | None,
        metric: str | None,
        lower_is_better: bool,
        accelerator: Accelerator,
        model: nn.Module,
        replica: nn.Module | None,
        average: MovingAverage | None,
        seed: int,
    ) -> None:
        self.evaluate = evaluate
        self.metric = metric
        self.lower_is_better = lower_is_better
        self.accelerator = accelerator
        self.model = model
        self.replica = replica
        self.average = average
        self.seed = seed
        self.best: tuple[float, int, int] | None = None
        self.last: dict[str, float] = {}
        self.last_step = -1

    def ready_model(self) -> nn.Module:
        """The model with the weights that count, in eval mode. All processes must call it."""
        target = self.model
        if self.replica is not None:
            averaged = None if self.average is None else self.average.state()
            weights = module_state(self.model) if averaged is None else averaged
            target = self.replica
            load_module_state(target, weights, "the evaluated copy")
        broadcast_buffers(target)
        return target.eval()

    def run(self, step: int) -> dict[str, float]:
        """Evaluate; the main process's metrics, on every process."""
        assert self.evaluate is not None
        model = self.ready_model()
        with torch.no_grad(), seeded(self.seed, step), _in_autocast(model, self.accelerator):
            metrics = self.evaluate(model)
        numbers = {name: float(value) for name, value in metrics.items()}
        return broadcast_value(numbers)

    def take(self, record: Mapping[str, Any]) -> bool:
        """Take notice of an evaluation's log record; whether it is the best so far.

        Raises:
            ValueError: The metric that decides is missing.
        """
        own = ("event", "step", "epoch")
        self.last = {name: value for name, value in record.items() if name not in own}
        self.last_step = record["step"]
        if self.metric is None:
            return False
        if self.metric not in self.last:
            raise ValueError(
                f"best_metric={self.metric!r} is not among what evaluate returned: "
                f"{', '.join(self.last) or 'nothing'}"
            )
        value = self.last[self.metric]
        if value is None or not math.isfinite(value):
            return False
        sign = -1 if self.lower_is_better else 1
        if self.best is not None and sign * value <= sign * self.best[0]:
            return False
        self.best = (value, record["step"], record["epoch"])
        return True


def make_replica(model: nn.Module, average_kept: bool, sharded: bool) -> nn.Module | None:
    """A copy of the model to evaluate with, where it is needed; call before sharding."""
    return copy.deepcopy(model) if average_kept or sharded else None


@contextlib.contextmanager
def _in_autocast(model: nn.Module, accelerator: Accelerator) -> Iterator[None]:
    """Let the model, and only it, compute in the run's precision; outputs are float32."""
    if accelerator.mixed_precision == "no":
        yield
        return
    from accelerate.utils import convert_outputs_to_fp32

    def lowered(plain: Callable[..., Any]) -> Callable[..., Any]:
        def call(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
            with accelerator.autocast():
                return plain(*args, **kwargs)

        return types.MethodType(convert_outputs_to_fp32(call), model)

    names = [name for name in ("forward", "forward_cycles") if hasattr(model, name)]
    for name in names:
        setattr(model, name, lowered(getattr(model, name)))
    try:
        yield
    finally:
        for name in names:
            delattr(model, name)
