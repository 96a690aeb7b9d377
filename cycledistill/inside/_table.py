"""The effect of each cycle on tokens and predictions, as a table and as a picture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from torch import Tensor

from cycledistill._tokens import angles
from cycledistill._wrapper import CycleWrapper
from cycledistill.inside._changes import (
    COLOURS,
    changes_by_cycle,
    draw_changes,
    finish_by_cycle,
    run_cycles,
)


@dataclass(frozen=True)
class CycleTable:
    """The effect of N cycles on B samples of T tokens; `str()` makes a table of it.

    Attributes:
        change: How far each cycle from the second on moves each token, relative to its norm
            before, `[N - 1, B, T]`.
        norm: Mean norm of the tokens, `[N]`.
        angle: Mean angle of the tokens to those of the fixed point, in degrees, `[N]`.
        fixed_point: The cycle whose tokens are taken as the fixed point.
        unsettled: Mean change in that cycle: near 0 if it is one.
        predictions: Class of each sample, `[N, B]`; None where the model has none.
        labels: The right classes, `[B]`, or None.
    """

    change: Tensor
    norm: Tensor
    angle: Tensor
    fixed_point: int
    unsettled: float
    predictions: Tensor | None = None
    labels: Tensor | None = None

    @property
    def changed_mind(self) -> Tensor | None:
        """Which predictions each cycle from the second on changes, bool `[N - 1, B]`."""
        return None if self.predictions is None else self.predictions[1:] != self.predictions[:-1]

    @property
    def accuracy(self) -> Tensor | None:
        """Accuracy of each cycle in percent, `[N]`; None without labels or predictions."""
        if self.predictions is None or self.labels is None:
            return None
        return 100 * (self.predictions == self.labels).float().mean(1)

    def __str__(self) -> str:
        flat = 100 * self.change.flatten(1)
        columns = {
            "cycle": [str(cycle) for cycle in range(1, len(self.norm) + 1)],
            "change %": ["-", *(f"{value:.2f}" for value in flat.mean(1))],
            "largest %": ["-", *(f"{value:.2f}" for value in flat.amax(1))],
            "norm": [f"{value:.3f}" for value in self.norm],
            f"degrees to cycle {self.fixed_point}": [f"{value:.3f}" for value in self.angle],
        }
        if self.accuracy is not None:
            columns["accuracy %"] = [f"{value:.2f}" for value in self.accuracy]
        if self.changed_mind is not None:
            counts = self.changed_mind.sum(1)
            columns["new predictions"] = ["-", *(str(int(count)) for count in counts)]
        widths = [max(map(len, (name, *cells))) for name, cells in columns.items()]
        rows = [columns, *zip(*columns.values(), strict=True)]
        lines = [
            "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
            for row in rows
        ]
        still = f"tokens still change {100 * self.unsettled:.2f} % in cycle {self.fixed_point}"
        return "\n".join([*lines, f"{self.change.shape[1]} samples; {still}"])


def cycle_table(
    cycled: CycleWrapper,
    *args: Any,
    num_cycles: int,
    labels: Tensor | None = None,
    settle: int = 16,
    predict: Callable[[Any], Tensor] | None = None,
    **kwargs: Any,
) -> CycleTable:
    """Call `cycled(*args, **kwargs)` and tabulate the changes in each cycle.

    ```python
    table = cycle_table(cycled, images, num_cycles=4, labels=labels)
    print(table)
    plot_cycle_table(table).savefig("cycles.png")
    ```

    The tokens and predictions of all `num_cycles + settle` cycles are kept, so use few samples.

    Args:
        cycled: The wrapped model, in eval mode.
        args: Passed to the model.
        num_cycles: Cycles N, 2 or more.
        labels: The right classes `[B]`, for the accuracy. They are not passed to the model.
        settle: Number of further cycles after which the tokens are taken as the fixed point.
        predict: From the model's output to classes `[B]`. None: the largest logit, if the output
            is logits `[B, K]` or has them as `logits`; of `[B, T, K]`, as in language models, the
            largest at the last position, which is the next token. Other models have no predictions.
        kwargs: Passed to the model.

    Raises:
        TypeError: `cycled` is no `CycleWrapper`.
        ValueError: Training mode, fewer than 2 cycles, tokens that are not `[B, T, D]`,
            predictions or labels that are not `[B]`, or labels for a model without predictions.
    """
    if settle < 1:
        raise ValueError(f"settle: found {settle}, expected 1 or more")
    tokens, outputs = run_cycles(cycled, args, kwargs, num_cycles, settle)
    changes = changes_by_cycle(tokens)
    shown = tokens[:num_cycles]
    batch = tokens.shape[1]
    found = [(predict or _classes)(output) for output in outputs[:num_cycles]]
    classes = [one.cpu() for one in found if one is not None]
    predictions = torch.stack(classes) if classes else None
    if predictions is not None and predictions.shape[1:] != (batch,):
        raise ValueError(f"predict: found shape {[*predictions.shape[1:]]}, expected [{batch}]")
    if labels is not None:
        if predictions is None:
            raise ValueError(
                "labels: the model has no predictions to compare them with, expected logits "
                f"[B, K] or an object with logits, got {type(outputs[0]).__name__}; predict= can "
                "make classes of it"
            )
        if labels.shape != (batch,):
            raise ValueError(f"labels: found shape {[*labels.shape]}, expected [{batch}]")
    return CycleTable(
        change=changes[: num_cycles - 1].cpu(),
        norm=torch.linalg.vector_norm(shown, dim=-1).mean((1, 2)).cpu(),
        angle=angles(shown, tokens[-1:]).mean((1, 2)).cpu(),
        fixed_point=num_cycles + settle,
        unsettled=float(changes[-1].mean()),
        predictions=predictions,
        labels=None if labels is None else labels.cpu(),
    )


def plot_cycle_table(table: CycleTable, *, max_samples: int = 32) -> Figure:
    """Draw a `CycleTable`: changes, angles to the fixed point, and which predictions change.

    In the grid, each row is a sample, each column a cycle, and each number a predicted class; a
    cell is coloured if it differs from the cycle before.

    Args:
        table: What `cycle_table` returned.
        max_samples: Largest number of rows. Samples whose prediction changes come first.

    Raises:
        ValueError: `max_samples` is below 1.
    """
    if max_samples < 1:
        raise ValueError(f"max_samples: found {max_samples}, expected 1 or more")
    rows = 0 if table.predictions is None else min(max_samples, table.predictions.shape[1])
    panels = 2 + (rows > 0)
    size = (3.6 * panels, max(3.6, 1.0 + 0.2 * rows))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(1, panels)
    changes = {"all tokens": table.change}
    draw_changes(axes[0], changes, "Change in each cycle: mean, middle half", 10)
    axes[1].plot(range(1, len(table.angle) + 1), table.angle, "o-", color=COLOURS[0])
    angle = f"Angle to the tokens of cycle {table.fixed_point}"
    finish_by_cycle(axes[1], angle, "degrees", 10)
    if rows:
        _draw_predictions(axes[2], table, rows)
    return figure


def _draw_predictions(axes: Axes, table: CycleTable, rows: int) -> None:
    assert table.predictions is not None and table.changed_mind is not None
    undecided = table.changed_mind.any(0)
    # Those that change are chosen first, then shown in the order of the batch.
    shown = undecided.logical_not().to(torch.int8).argsort(stable=True)[:rows].sort().values
    predictions = table.predictions[:, shown].T
    changed = torch.zeros_like(predictions)
    changed[:, 1:] = table.changed_mind[:, shown].T
    colours = ListedColormap(["0.93", COLOURS[5]])
    axes.imshow(changed.numpy(), colours, vmin=0, vmax=1, aspect="auto")
    for (row, column), value in np.ndenumerate(predictions.numpy()):
        axes.text(column, row, str(value), ha="center", va="center", fontsize=7)
    axes.set_xticks(range(predictions.shape[1]), [str(1 + i) for i in range(predictions.shape[1])])
    axes.set_yticks(range(rows), [str(index) for index in shown.tolist()], fontsize=7)
    axes.set(xlabel="cycle", ylabel="sample")
    count = f"{int(undecided.sum())} of {len(undecided)} samples"
    axes.set_title(f"{count} change their mind", fontsize=10)


def _classes(output: Any) -> Tensor | None:
    """The class `[B]` with the largest logit, or None where there are no logits."""
    if isinstance(output, Tensor):
        return output.argmax(-1) if output.ndim == 2 else None
    logits = output.get("logits") if isinstance(output, dict) else getattr(output, "logits", None)
    if not isinstance(logits, Tensor) or logits.ndim not in (2, 3):
        return None
    return (logits if logits.ndim == 2 else logits[:, -1]).argmax(-1)
