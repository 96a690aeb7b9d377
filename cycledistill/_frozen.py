"""FoldLoss: the task loss of a student, and its distance from frozen teachers' predictions."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from cycledistill._checks import check_callable, check_fraction
from cycledistill._distance import as_scalar, at_least_float32, choose_prediction_distance
from cycledistill._loss import CycleLosses
from cycledistill._output import CycleOutput
from cycledistill._tree import as_arguments, map_tensors
from cycledistill._wrapper import CycleWrapper


class FoldLoss(nn.Module):
    """The loss of a student with trained, frozen teachers.

    >>> import copy, torch
    >>> from torch import nn
    >>> from cycledistill import CycleWrapper
    >>> blocks = [nn.Sequential(nn.Linear(4, 4), nn.GELU()) for _ in range(2)]
    >>> grown = CycleWrapper(nn.Sequential(*blocks), num_cycles=2)  # trained for its last cycle
    >>> student = copy.deepcopy(grown).unwrap()  # a plain model, from the teacher's weights
    >>> criterion = FoldLoss(nn.CrossEntropyLoss(), grown, truth_weight=0.1)
    >>> inputs, labels = torch.randn(8, 4), torch.randint(0, 4, (8,))
    >>> losses = criterion(student(inputs), labels, inputs=inputs)
    >>> bool((losses.total - 0.1 * losses.task - 0.9 * losses.predictions).abs() < 1e-6)
    True
    >>> list(criterion.parameters()), criterion.state_dict()
    ([], OrderedDict())

    With the student's prediction P, targets Y, teachers' predictions Q_1..Q_K and truth weight w::

        L = w task(P, Y) + (1 - w) mean_k distance(P, Q_k)

    For class logits the distance is the Kullback-Leibler divergence at a temperature (Hinton et
    al., arXiv 1503.02531); its gradient is that of the divergence from the teachers' mean
    probabilities. Predictions are compared in float32 or higher. Folding is meant for a plain
    model and a teacher of the same size that was trained for its last cycle
    (``task_cycles="last"``); docs/results/lab.md shows what it gains. If the student trains with
    several cycles, each of them is taught, and the losses are averaged.

    The teachers get exactly the student's (augmented) inputs, in eval mode and without gradients.
    They move with this module (``.to``) but are not its children, so neither ``parameters()`` nor
    ``state_dict()`` includes theirs.

    Args:
        task_loss: Called as ``task_loss(prediction, *targets)``; returns a scalar.
        teachers: One module or several. A `CycleWrapper`, also one inside of another module (an
            average, DDP), predicts after its ``num_cycles`` cycles; any other module is called
            once. A teacher must not share parameters with the student, which would train both:
            copy it.
        truth_weight: Weight w of the task loss, from 0 to 1.
        prediction_distance: ``"kl"`` (class logits, the classes last), ``"mse"`` (heatmaps,
            coordinates), or a function of (student, teacher) predictions that returns a scalar.
        temperature: Softening of ``"kl"``.

    Raises:
        TypeError: A teacher is not a module, or ``task_loss`` is not callable.
        ValueError: An argument is out of range.
    """

    def __init__(
        self,
        task_loss: Callable[..., Tensor],
        teachers: nn.Module | Iterable[nn.Module],
        truth_weight: float = 0.1,
        prediction_distance: str | Callable[[Any, Any], Tensor] = "kl",
        temperature: float = 2.0,
    ) -> None:
        super().__init__()
        if isinstance(teachers, nn.Module) and not isinstance(teachers, nn.ModuleList):
            teachers = (teachers,)
        self._teachers = tuple(teachers)
        if not self._teachers:
            raise ValueError("teachers is empty, expected one module or several")
        for teacher in self._teachers:
            if not isinstance(teacher, nn.Module):
                raise TypeError(f"expected modules as teachers, got {type(teacher).__name__}")
        check_callable("task_loss", task_loss)
        self.task_loss = task_loss
        self.truth_weight = check_fraction("truth_weight", truth_weight)
        self.prediction_distance = choose_prediction_distance(prediction_distance, temperature)

    def forward(self, output: Any, *targets: Any, inputs: Any) -> CycleLosses:
        """Compute the loss of a student's output.

        Args:
            output: A plain model's prediction, or the `CycleOutput` of a `CycleWrapper`.
            *targets: Passed on to the task loss.
            inputs: The student's inputs: a tensor, a tuple of positional arguments, or a mapping
                of keyword arguments.

        Returns:
            The total, and the task loss and the mean distance from the teachers of each of the
            student's N cycles (1 for a plain model), `[N]` each.
        """
        taught = [self._prediction(teacher, inputs) for teacher in self._teachers]
        students = output.predictions if isinstance(output, CycleOutput) else (output,)
        task = torch.stack([as_scalar("task_loss", self.task_loss(p, *targets)) for p in students])
        distances = [
            torch.stack([self._distance(own, told) for told in taught]).mean()
            for own in (map_tensors(at_least_float32, one) for one in students)
        ]
        predictions = torch.stack(distances)
        weights = (self.truth_weight, 1 - self.truth_weight)
        terms = [
            weight * losses.mean()
            for weight, losses in zip(weights, (task, predictions), strict=True)
            if weight  # a loss that is NaN does not count without one
        ]
        return CycleLosses(torch.stack(terms).sum(), task, {}, predictions)

    def _distance(self, own: Any, told: Any) -> Tensor:
        return as_scalar("prediction_distance", self.prediction_distance(own, told))

    @staticmethod
    @torch.no_grad()
    def _prediction(teacher: nn.Module, inputs: Any) -> Any:
        if any(module.training for module in teacher.modules()):
            teacher.eval()
        args, kwargs = as_arguments(inputs)
        cycled = [module for module in teacher.modules() if isinstance(module, CycleWrapper)]
        before = [module._cycles_in_use for module in cycled]
        try:
            for module in cycled:
                module._cycles_in_use = module.num_cycles
            return map_tensors(at_least_float32, teacher(*args, **kwargs))
        finally:
            for module, in_use in zip(cycled, before, strict=True):
                module._cycles_in_use = in_use

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> FoldLoss:
        for teacher in self._teachers:
            teacher._apply(fn, recurse)
        return super()._apply(fn, recurse)

    def extra_repr(self) -> str:
        """Options in the module's ``repr``."""
        return f"teachers={len(self._teachers)}, truth_weight={self.truth_weight}"
