"""The options of every run that trains a model in cycles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from cycledistill._checks import check_span
from cycledistill.training._config import TrainConfig, within


@dataclass
class CycledConfig(TrainConfig):
    """Options of the training loop and of the cycles; derive from it to add your own.

    Example:
        >>> config = CycledConfig(mode="cycle", num_cycles=3)
        >>> config.training_cycles, config.inference_cycles
        (3, 3)
    """

    mode: Literal["plain", "cycle", "distill"] = "distill"
    """plain: one cycle. cycle: several cycles, loss on the last, used with all of them (paper,
    table 6 and table 9, row 2). distill: loss on every cycle, tokens distilled, used with one
    (paper, tables 1, 5, 7 and table 9, row 3)."""

    num_cycles: int = within(2, at_least=1)
    """Cycles in training, except in the modes plain and fold (2; 3 for SDPose-T: paper, 4.1.2)."""

    task_cycles: Literal["all", "mean", "last"] = "all"
    """Cycles with a task loss in mode distill: the sum over all (paper, eq. 3), their mean, or the
    last (paper, table 5)."""

    grad_cycles: int | None = within(None, at_least=1)
    """Consecutive cycles that a gradient passes through; None for all of them (None: paper). 1 cuts
    the gradient between cycles, see docs/results/lab.md."""

    min_cycles: int | None = None
    """Draw each step's number of cycles from min_cycles to num_cycles; None always runs all."""

    cycles_from: float = 0.0
    """Fraction of training after which all cycles run; until then their number rises from 1."""

    cycles_until: float = 1.0
    """Fraction of training after which a single cycle runs, to the end; for networks that are used
    with one, as those of mode distill."""

    activation_checkpointing: Literal["block", "cycle"] | None = None
    """Recompute activations in the backward pass: less memory, more time."""

    @property
    def training_cycles(self) -> int:
        """Cycles that training runs in this mode."""
        mode: str = self.mode  # recipes have more modes
        return 1 if mode in ("plain", "fold") else self.num_cycles

    @property
    def inference_cycles(self) -> int:
        """Cycles to use the trained model with."""
        return cycles_in_use(self.mode, self.num_cycles)

    def wrapper_options(self) -> dict[str, Any]:
        """Keyword arguments for `cycledistill.CycleWrapper`."""
        plain = self.training_cycles == 1
        return {
            "num_cycles": self.training_cycles,
            "min_cycles": None if plain else self.min_cycles,
            "cycles_from": self.cycles_from,
            "cycles_until": self.cycles_until,
            "grad_cycles": self.grad_cycles,
            "activation_checkpointing": self.activation_checkpointing,
        }

    def validate(self) -> None:
        """Check ranges.

        Raises:
            ValueError: An option is out of its range; the text names it.
        """
        super().validate()
        if self.min_cycles is not None and not 1 <= self.min_cycles <= self.num_cycles:
            raise ValueError(
                f"min_cycles must be from 1 to num_cycles={self.num_cycles}, got {self.min_cycles}"
            )
        check_span(cycles_from=self.cycles_from, cycles_until=self.cycles_until)
        if self.num_cycles == 1 and str(self.mode) not in ("plain", "fold"):
            raise ValueError(
                f"mode={self.mode} with num_cycles=1 is plain training; use --mode plain, or "
                "--num-cycles 2 or more"
            )
        first = str(self.mode).removesuffix("-fold")  # grow-fold grows first
        if self.cycles_until < 1 < cycles_in_use(first, self.num_cycles):
            raise ValueError(
                f"cycles_until={self.cycles_until} ends the training with one cycle, but "
                f"mode={self.mode} trains a network that is used with "
                f"num_cycles={self.num_cycles}: leave out --cycles-until, or use --mode distill"
            )


def cycles_in_use(mode: str, num_cycles: int) -> int:
    """Cycles to use a model with that was trained in this mode, of any config."""
    return num_cycles if mode in ("cycle", "grow") else 1
