"""Evaluations during a run, and which was the best."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from accelerate.utils import convert_outputs_to_fp32
from torch import nn
from torch.optim.swa_utils import AveragedModel

from cycledistill.training._checkpoint import CheckpointStore
from cycledistill.training._seeding import seed_cpu, states_kept
from cycledistill.training._sharding import load_module_state, module_state, shard
from cycledistill.training.processes._communication import broadcast_tensors, broadcast_value

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
    """Calls ``evaluate`` on the moving average if there is one, and remembers the best result.

    Sharded weights are gathered into a copy for it.

    Args:
        evaluate: The user's function.
        metric: Name of the metric that decides which checkpoint is best.
        lower_is_better: Whether a smaller value is better.
        seed: Seed of the random numbers in ``evaluate``.

    Attributes:
        step: Steps done at the last evaluation, -1 before the first.
        metrics: Its result.
    """

    def __init__(
        self, evaluate: Evaluate | None, metric: str | None, lower_is_better: bool, seed: int
    ) -> None:
        self.evaluate = evaluate
        self._metric = metric
        self._sign = -1 if lower_is_better else 1
        self._seed = seed
        self._best: dict[str, Any] | None = None
        self.step = -1
        self.metrics: dict[str, float] = {}

    def attach(
        self, accelerator: Accelerator, model: nn.Module, decay: float | None, sharded: bool
    ) -> AveragedModel | None:
        """Start the moving average and make the copies needed, before the model is sharded."""
        self._accelerator = accelerator
        self._model, self._replica = model, copy.deepcopy(model) if sharded else None
        self._average = None if decay is None else moving_average(model, decay, sharded)
        return self._average

    def ready_model(self) -> nn.Module:
        """The model to evaluate and to return, in eval mode. All processes must call it."""
        model = self._model if self._average is None else self._average.module
        if self._replica is not None:
            load_module_state(self._replica, module_state(model), "the evaluated copy")
            model = self._replica
        broadcast_tensors(model.buffers())  # running statistics
        return model.eval()

    def run(self, step: int, epoch: int) -> bool:
        """Evaluate; returns whether the result is the best so far.

        All processes get the main process's result.

        Raises:
            ValueError: ``evaluate`` did not return numbers, or not ``best_metric``.
        """
        assert self.evaluate is not None
        model = self.ready_model()
        with torch.no_grad(), states_kept(), _in_autocast(model, self._accelerator):
            seed_cpu(self._seed, step)
            metrics = self.evaluate(model)
        if not isinstance(metrics, Mapping):
            raise ValueError(
                "evaluate: expected it to return a mapping from names to numbers, got "
                f"{type(metrics).__name__}"
            )
        numbers = {name: float(value) for name, value in metrics.items()}
        self.metrics, self.step = broadcast_value(numbers), step
        if self._metric is None:
            return False
        if self._metric not in self.metrics:
            raise ValueError(
                f"best_metric={self._metric!r} is not among what evaluate returned: "
                f"{', '.join(self.metrics) or 'nothing'}"
            )
        value = self.metrics[self._metric]
        better = self._best is None or self._sign * value > self._sign * self._best["value"]
        if is_best := better and math.isfinite(value):
            self._best = {"metric": self._metric, "value": value, "epoch": epoch, "step": step}
        return is_best

    def meta(self) -> dict[str, Any]:
        """The last evaluation and the best one, for a checkpoint."""
        evaluated = {"step": self.step, "metrics": self.metrics} if self.step >= 0 else None
        return {"evaluation": evaluated, "best": self._best}

    def load(self, meta: Mapping[str, Any]) -> None:
        """Load what ``meta`` returned, without a best value of another metric."""
        if meta["evaluation"] is not None:
            self.step, self.metrics = meta["evaluation"]["step"], meta["evaluation"]["metrics"]
        if meta["best"] is not None and meta["best"]["metric"] == self._metric:
            self._best = meta["best"]

    @property
    def best_step(self) -> int | None:
        """Steps done at the best evaluation."""
        return None if self._best is None else self._best["step"]

    def best_of(self, *stores: CheckpointStore) -> BestEvaluation | None:
        """The best evaluation with its checkpoint, in the first of the stores that has it."""
        if self._best is None:
            return None
        places = [store.path(self._best["step"]) for store in stores]
        folder = next((path for path in places if path.exists()), places[0])
        return BestEvaluation(**self._best, checkpoint=folder)


def moving_average(module: nn.Module, decay: float, sharded: bool = False) -> AveragedModel:
    """Exponential moving average of a module's parameters and floating-point buffers.

    Example:
        >>> layer = nn.Linear(1, 1, bias=False)
        >>> _ = nn.init.constant_(layer.weight, 0.0)
        >>> average = moving_average(layer, decay=0.9)
        >>> _ = nn.init.constant_(layer.weight, 1.0)
        >>> average.update_parameters(layer)
        >>> round(average.module.weight.item(), 3)
        0.1

    Starts from the current weights; other buffers (counters) are copied.
    """

    @torch.no_grad()
    def update(averages: Any, values: Any, _: Any) -> None:
        if not averages[0].is_floating_point():
            torch._foreach_copy_(averages, values)
        elif not sharded:
            torch._foreach_lerp_(averages, values, 1 - decay)
        else:  # shards and buffers, which have none, do not go together
            for average, value in zip(averages, values, strict=True):
                average.lerp_(value, 1 - decay)

    averaged = AveragedModel(module, multi_avg_fn=update, use_buffers=True)
    averaged.n_averaged += 1  # with 0, the first update would replace the weights
    if sharded:
        shard(averaged.module)
    return averaged


@contextlib.contextmanager
def _in_autocast(model: nn.Module, accelerator: Accelerator) -> Iterator[None]:
    """Let the model, and only it, compute in the run's precision; outputs are float32."""
    with contextlib.ExitStack() as after:
        for name in ("forward", "forward_cycles"):
            if accelerator.mixed_precision != "no" and hasattr(model, name):
                plain = getattr(model, name)
                setattr(model, name, convert_outputs_to_fp32(accelerator.autocast()(plain)))
                after.callback(delattr, model, name)
        yield
