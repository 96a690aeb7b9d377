"""CycleDistillLoss: the task loss of every cycle, and the distillation of each cycle's tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from cycledistill._checks import check_callable, check_choice, check_fraction
from cycledistill._distance import (
    Distance,
    as_scalar,
    at_least_float32,
    choose_prediction_distance,
    choose_token_distance,
)
from cycledistill._output import CycleOutput
from cycledistill._schedule import Weight, warn_of_no_progress, weight_at
from cycledistill._tree import map_tensors


class CycleLosses(NamedTuple):
    """The loss and its terms.

    Attributes:
        total: The scalar to call ``backward`` on: the weighted sum of all terms.
        task: Task loss of each cycle, unweighted, `[N]`.
        tokens: Token distance of each pair of cycles, unweighted, `[N - 1]` for every token group
            (a single group ``"all"`` if none were given).
        predictions: Prediction distance of each pair of cycles, unweighted, `[N - 1]`; empty
            without prediction distillation.
        scales: Root mean square of a token's channels in each cycle, averaged over all tokens,
            `[N]`; not part of the loss. If it grows strongly from cycle to cycle, see
            ``cycle_norm`` and ``gate`` of `CycleWrapper`.
    """

    total: Tensor
    task: Tensor
    tokens: dict[str, Tensor]
    predictions: Tensor
    scales: Tensor = torch.zeros(0)

    def scalars(self) -> dict[str, float]:
        """Numbers to log, such as ``{"loss": ..., "task/1": ..., "tokens/all/1": ...}``.

        Synchronises with the device once.
        """
        names, values = self.flat()
        return dict(zip(names, values.tolist(), strict=True))

    def flat(self) -> tuple[list[str], Tensor]:
        """Names and values `[n]` of `scalars`, detached and still on the device."""
        terms = {"task": self.task, "predictions": self.predictions}
        terms.update({f"tokens/{name}": values for name, values in self.tokens.items()})
        terms["scale"] = self.scales
        names = ["loss"]
        for name, values in terms.items():
            names += [f"{name}/{cycle}" for cycle in range(1, len(values) + 1)]
        total = self.total.detach().reshape(1)
        return names, torch.cat([total, *(v.detach().to(total.device) for v in terms.values())])


class CycleDistillLoss(nn.Module):
    """The loss of a cycled model: eq. 4 of SDPose (arXiv 2404.03518), for any task.

    >>> import torch
    >>> from cycledistill import CycleOutput
    >>> criterion = CycleDistillLoss(torch.nn.CrossEntropyLoss(), token_weight=0.5)
    >>> logits = torch.zeros(2, 3)
    >>> output = CycleOutput((logits, logits), (torch.zeros(2, 5, 4), torch.ones(2, 5, 4)))
    >>> losses = criterion(output, torch.tensor([0, 2]))
    >>> {name: round(value, 4) for name, value in losses.scalars().items() if "/" in name}
    {'task/1': 1.0986, 'task/2': 1.0986, 'tokens/all/1': 1.0, 'scale/1': 0.0, 'scale/2': 1.0}
    >>> round(float(losses.total), 4)
    2.6972

    With predictions P_i and tokens T_i of cycles i = 1..N, targets Y, weights a_g of token groups::

        L = sum_i task(P_i, Y) + sum_g a_g sum_{i<N} distance(T_i[g], teacher(T_{i+1}[g]))

    where the teacher's tokens are those of the next cycle (or of the last), detached from the
    graph. The paper's text calls them the teacher; its released code lets the gradient flow into
    both, as ``detach_teacher=False`` does. Distances are means over all elements, computed in
    float32 or higher. With one cycle, only the task loss remains.

    Args:
        task_loss: Called as ``task_loss(prediction, *targets)`` with one cycle's prediction;
            returns a scalar. A module's parameters become parameters of this one.
        token_weight: Weight a of the token distance (alpha_1 = alpha_2 = 5e-6 in the paper), a
            number or a function of the training progress such as `Ramp`; with ``token_groups``,
            optionally a mapping from group name to weight.
        token_groups: Named parts of the sequence, as slices along T that do not overlap:
            ``{"keypoint": slice(0, 17), "visual": slice(17, None)}``. Each group's distance is a
            separate mean. ``None``: the whole sequence is one group.
        distance: ``"mse"``, ``"smooth_l1"``, ``"cosine"``, or a function of (student, teacher).
        teacher: ``"next"`` (cycle i learns from i + 1) or ``"last"`` (from N).
        detach_teacher: Whether the teacher's tokens and predictions are detached.
        task_cycles: Cycles with a task loss: ``"all"`` (their sum), ``"mean"`` (their mean),
            ``"last"``, or one weight for each cycle.
        prediction_weight: Weight of the distance between predictions, 0 for none; a number or a
            function of the progress. Predictions are compared in float32 or higher.
        prediction_distance: ``"kl"`` (class logits, the classes last), ``"mse"`` (maps,
            coordinates), or a function of (student, teacher) predictions, of any type that the
            model returns.
        temperature: Softening of ``"kl"``.
        token_dim: Dimension T of the tokens, 1 for `[B, T, D]`.

    Raises:
        TypeError: ``task_loss`` is not callable.
        ValueError: An argument, or a token group, is out of range.
    """

    def __init__(
        self,
        task_loss: Callable[..., Tensor],
        token_weight: Weight | Mapping[str, Weight] = 5e-6,
        token_groups: Mapping[str, slice] | None = None,
        distance: str | Distance = "mse",
        teacher: str = "next",
        detach_teacher: bool = True,
        task_cycles: str | Sequence[float] = "all",
        prediction_weight: Weight = 0.0,
        prediction_distance: str | Callable[[Any, Any], Tensor] = "kl",
        temperature: float = 1.0,
        token_dim: int = 1,
    ) -> None:
        super().__init__()
        check_callable("task_loss", task_loss)
        check_choice("teacher", teacher, "next", "last")
        if isinstance(task_cycles, str) and task_cycles not in ("all", "mean", "last"):
            raise ValueError(
                "task_cycles: expected 'all', 'mean', 'last' or a weight for each cycle, got "
                f"{task_cycles!r}"
            )
        self.task_loss = task_loss
        self.token_groups = _checked_groups(token_groups)
        self.token_weights = _weights_of_groups(token_weight, self.token_groups)
        self.distance = choose_token_distance(distance)
        self.teacher = teacher
        self.detach_teacher = detach_teacher
        self.task_cycles = task_cycles if isinstance(task_cycles, str) else tuple(task_cycles)
        self.prediction_weight = prediction_weight
        self.prediction_distance = choose_prediction_distance(prediction_distance, temperature)
        self.token_dim = token_dim
        self.progress = 0.0
        weights = (*self.token_weights.values(), prediction_weight)
        self._needs_progress = any(map(callable, weights))

    def set_progress(self, progress: float) -> None:
        """Set the training progress, from 0 to 1, for weights that follow a schedule."""
        self.progress = check_fraction("progress", progress)
        self._needs_progress = False

    def forward(self, output: CycleOutput, *targets: Any) -> CycleLosses:
        """Compute the loss of a cycled model's output.

        Args:
            output: Predictions and tokens of every cycle, from `CycleWrapper`.
            *targets: Passed on to the task loss.

        Raises:
            TypeError: ``output`` is not a `CycleOutput`.
            ValueError: There is only one cycle with ``teacher="last"``, a token group does not fit
                the sequence, or there are more or fewer task weights than cycles.
        """
        if not isinstance(output, CycleOutput):
            raise TypeError(
                "expected the CycleOutput of a CycleWrapper in training, got "
                f"{type(output).__name__}: in eval mode use cycled.forward_cycles(...)"
            )
        if self._needs_progress and not torch.compiler.is_compiling():
            warn_of_no_progress("a weight of CycleDistillLoss")
            self._needs_progress = False
        num_cycles = len(output.tokens)
        if num_cycles == 1 and self.teacher == "last":
            raise ValueError(
                "teacher='last' needs two cycles or more, the output has one: raise num_cycles, or "
                "use teacher='next', with which one cycle has only the task loss"
            )
        device = output.tokens[0].device
        weights = self._task_weights(num_cycles)
        task = [
            self._task(prediction, targets, bool(weight))
            for prediction, weight in zip(output.predictions, weights, strict=True)
        ]
        weighted = [loss * weight for loss, weight in zip(task, weights, strict=True) if weight]
        if not weighted:
            raise ValueError(f"task_cycles={self.task_cycles!r} leaves no cycle with a task loss")
        total = torch.stack(weighted).sum()
        tokens: dict[str, Tensor] = {}
        for name, part in self._groups(output.tokens[0]).items():
            weight = weight_at(self.token_weights[name], self.progress)
            tokens[name] = self._pairs(
                [tensor[part] for tensor in output.tokens], self._token_distance, weight, device
            )
            if weight and num_cycles > 1:
                total = total + weight * tokens[name].sum()
        weight = weight_at(self.prediction_weight, self.progress)
        predictions = torch.zeros(0, device=device)
        if weight:
            made = [map_tensors(at_least_float32, prediction) for prediction in output.predictions]
            predictions = self._pairs(made, self._prediction_distance, weight, device)
            if num_cycles > 1:
                total = total + weight * predictions.sum()
        return CycleLosses(total, torch.stack(task), tokens, predictions, _scales(output.tokens))

    def _task(self, prediction: Any, targets: tuple[Any, ...], trains: bool) -> Tensor:
        with torch.set_grad_enabled(trains and torch.is_grad_enabled()):
            loss = self.task_loss(prediction, *targets)
        return as_scalar("task_loss", loss)

    def _task_weights(self, num_cycles: int) -> tuple[float, ...]:
        if self.task_cycles == "all":
            return (1.0,) * num_cycles
        if self.task_cycles == "mean":
            return (1.0 / num_cycles,) * num_cycles
        if self.task_cycles == "last":
            return (0.0,) * (num_cycles - 1) + (1.0,)
        if len(self.task_cycles) != num_cycles:
            raise ValueError(
                f"task_cycles: expected a weight for each of {num_cycles} cycles, got "
                f"{len(self.task_cycles)}: {self.task_cycles}"
            )
        return tuple(float(weight) for weight in self.task_cycles)

    def _groups(self, tokens: Tensor) -> dict[str, Any]:
        """The index of each group into a cycle's tokens."""
        before = (slice(None),) * self.token_dim
        if self.token_groups is None:
            return {"all": (...,)}
        length = tokens.shape[self.token_dim]
        taken: dict[int, str] = {}
        for name, part in self.token_groups.items():
            members = range(length)[part]
            ends = [end for end in (part.start, part.stop) if end is not None]
            if not members or not all(-length <= end <= length for end in ends):
                raise ValueError(
                    f"token group {name!r} = {part} does not lie within the {length} tokens of "
                    f"{list(tokens.shape)}"
                )
            for member in members:
                if member in taken:
                    raise ValueError(
                        f"token groups {taken[member]!r} and {name!r} overlap at token {member}"
                    )
                taken[member] = name
        return {name: (*before, part) for name, part in self.token_groups.items()}

    def _pairs(
        self, cycles: list[Any], distance: Callable[[Any, Any], Tensor], weight: float, device: Any
    ) -> Tensor:
        """Distance of each cycle from its teacher, `[N - 1]`; detached if the weight is 0."""
        if len(cycles) == 1:
            return torch.zeros(0, device=device)
        teachers = cycles[1:] if self.teacher == "next" else cycles[-1:] * (len(cycles) - 1)
        with torch.set_grad_enabled(bool(weight) and torch.is_grad_enabled()):
            values = [
                distance(student, _detach(teacher) if self.detach_teacher else teacher)
                for student, teacher in zip(cycles[:-1], teachers, strict=True)
            ]
        return torch.stack(values)

    def _token_distance(self, student: Tensor, teacher: Tensor) -> Tensor:
        return as_scalar("distance", self.distance(*map(at_least_float32, (student, teacher))))

    def _prediction_distance(self, student: Any, teacher: Any) -> Tensor:
        return as_scalar("prediction_distance", self.prediction_distance(student, teacher))

    def extra_repr(self) -> str:
        """Options in the module's ``repr``."""
        return (
            f"token_weight={self.token_weights}, teacher={self.teacher!r}, "
            f"detach_teacher={self.detach_teacher}, task_cycles={self.task_cycles!r}, "
            f"prediction_weight={self.prediction_weight}"
        )


@torch.no_grad()
def _scales(tokens: Sequence[Tensor]) -> Tensor:
    return torch.stack([at_least_float32(t).square().mean(-1).sqrt().mean() for t in tokens])


def _weights_of_groups(
    weight: Weight | Mapping[str, Weight], groups: Mapping[str, slice] | None
) -> dict[str, Weight]:
    names = ["all"] if groups is None else list(groups)
    if not isinstance(weight, Mapping):
        return dict.fromkeys(names, weight)
    if set(weight) != set(names):
        raise ValueError(
            f"token_weight names the groups {sorted(weight)}, token_groups names {sorted(names)}"
        )
    return dict(weight)


def _checked_groups(groups: Mapping[str, slice] | None) -> dict[str, slice] | None:
    if groups is None:
        return None
    if not groups:
        raise ValueError("token_groups is empty; use None to treat all tokens as one group")
    for name, part in groups.items():
        if not isinstance(part, slice) or (part.step or 1) < 1:
            raise ValueError(
                f"token group {name!r}: expected a slice along the tokens with a step of 1 or "
                f"more, got {part!r}"
            )
    return dict(groups)


def _detach(tree: Any) -> Any:
    return map_tensors(torch.Tensor.detach, tree)
