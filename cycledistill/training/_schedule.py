"""Learning-rate schedules: functions from the step to a factor of each group's rate."""

from __future__ import annotations

import bisect
import dataclasses
import math
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau


@dataclasses.dataclass(frozen=True)
class WarmupSteps:
    """Linear warm-up, then constant, multiplied by ``factor`` at each milestone.

    The paper (section 4.1.2) divides by 10 at epochs 200 and 260; its released recipe warms up
    over 500 steps from 1e-6 to 1e-3.

    Example:
        >>> schedule = WarmupSteps(warmup_steps=10, start=0.1, milestones=(100,), factor=0.1)
        >>> [round(schedule(step), 3) for step in (0, 5, 10, 99, 100)]
        [0.1, 0.55, 1.0, 1.0, 0.1]

    Attributes:
        warmup_steps: Steps from ``start`` to 1.
        start: Factor at step 0.
        milestones: Steps at which the rate drops, ascending.
        factor: What the rate is multiplied by there.
    """

    warmup_steps: int = 0
    start: float = 1e-3
    milestones: tuple[int, ...] = ()
    factor: float = 0.1

    def __post_init__(self) -> None:
        if list(self.milestones) != sorted(self.milestones):
            raise ValueError(f"milestones must ascend, got {self.milestones}")

    def __call__(self, step: int) -> float:
        """Factor of the learning rate at ``step`` (from 0)."""
        decay = self.factor ** bisect.bisect_right(self.milestones, step)
        return decay * _warmup(step, self.warmup_steps, self.start)


@dataclasses.dataclass(frozen=True)
class WarmupCosine:
    """Linear warm-up, then half a cosine down to ``end`` (DeiT's schedule).

    Example:
        >>> schedule = WarmupCosine(total_steps=110, warmup_steps=10, start=0.0, end=0.1)
        >>> [round(schedule(step), 3) for step in (0, 5, 10, 60, 110)]
        [0.0, 0.5, 1.0, 0.55, 0.1]

    Attributes:
        total_steps: Steps of the whole run, including the warm-up.
        warmup_steps: Steps from ``start`` to 1.
        start: Factor at step 0.
        end: Factor at ``total_steps`` and after.
    """

    total_steps: int
    warmup_steps: int = 0
    start: float = 0.0
    end: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.warmup_steps <= self.total_steps:
            raise ValueError(
                f"warmup_steps={self.warmup_steps} must lie in 0..total_steps={self.total_steps}"
            )

    def __call__(self, step: int) -> float:
        """Factor of the learning rate at ``step`` (from 0)."""
        if step < self.warmup_steps:
            return _warmup(step, self.warmup_steps, self.start)
        length = max(self.total_steps - self.warmup_steps, 1)
        progress = min((step - self.warmup_steps) / length, 1.0)
        return self.end + (1 - self.end) * 0.5 * (1 + math.cos(math.pi * progress))


class RateSetter:
    """Sets the learning rates of an optimiser before each step, from any kind of schedule.

    Args:
        optimizer: The base rate of a group is its ``initial_lr`` if an earlier schedule stored one
            (PyTorch's, timm's and this one do), otherwise its ``lr``.
        schedule: ``step -> factor``; a ``torch`` LRScheduler, stepped once per step; an object
            with timm's ``step_update(num_updates)``; or ``None`` for constant rates. A factor is
            also multiplied by the group's ``lr_scale`` (timm's layer decay).
    """

    def __init__(self, optimizer: Optimizer, schedule: Any) -> None:
        if isinstance(schedule, ReduceLROnPlateau):
            raise TypeError("ReduceLROnPlateau needs a metric for each step; use another schedule")
        if getattr(schedule, "t_in_epochs", False):
            raise ValueError(
                "schedule: expected a timm scheduler that counts updates (t_in_epochs=False, or "
                "step_on_epochs=False of create_scheduler_v2), got one that counts epochs"
            )
        if getattr(schedule, "optimizer", optimizer) is not optimizer:
            raise ValueError("schedule: expected one of the run's optimizer, got one of another")
        self.optimizer = optimizer
        self.schedule = schedule
        self.base_rates = [
            float(group.setdefault("initial_lr", group["lr"])) for group in optimizer.param_groups
        ]

    def before_step(self, step: int) -> None:
        """Set the rates of ``step`` (from 0)."""
        if hasattr(self.schedule, "step_update"):
            self.schedule.step_update(step)
        elif not isinstance(self.schedule, LRScheduler):
            factor = 1.0 if self.schedule is None else float(self.schedule(step))
            for group, rate in zip(self.optimizer.param_groups, self.base_rates, strict=True):
                group["lr"] = rate * factor * group.get("lr_scale", 1.0)

    def after_step(self) -> None:
        """Advance a stateful schedule."""
        if isinstance(self.schedule, LRScheduler):
            self.schedule.step()

    def state_dict(self) -> dict[str, Any]:
        """State to save; empty if the schedule is a function of the step."""
        return dict(self.schedule.state_dict()) if isinstance(self.schedule, LRScheduler) else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what ``state_dict`` gave, after the optimiser has been loaded.

        Raises:
            ValueError: The state is that of other learning rates.
        """
        if isinstance(self.schedule, LRScheduler):
            then = [float(group["initial_lr"]) for group in self.optimizer.param_groups]
            if then != self.base_rates:
                raise ValueError(
                    f"schedule: its state in the checkpoint is for learning rates of {then}, got "
                    f"{self.base_rates}: a torch scheduler keeps them. Use the former ones, or a "
                    "function of the step"
                )
            self.schedule.load_state_dict(state)


def _warmup(step: int, warmup_steps: int, start: float) -> float:
    if step >= warmup_steps:
        return 1.0
    return start + (1.0 - start) * step / warmup_steps
