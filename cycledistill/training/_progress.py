"""Reports of a run: in the terminal, in its log and to its trackers."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import torch
from accelerate import Accelerator
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from torch import Tensor, nn

from cycledistill.training._config import TrainConfig
from cycledistill.training._log import RunLog, environment
from cycledistill.training._sampler import GlobalOrder


class Reporter:
    """Reports a run to the terminal, ``log.jsonl`` and the trackers.

    A terminal shows a live bar, anything else gets plain lines.

    Args:
        order: The samples of every step.
        log: The log, open; None on all but the main process, where nothing is reported.
        trackers: Accelerate's.
        console: The terminal.
    """

    def __init__(
        self,
        order: GlobalOrder,
        log: RunLog | None,
        trackers: Sequence[Any] = (),
        console: Console | None = None,
    ) -> None:
        self._console = console or Console(soft_wrap=True, highlight=False)
        self._console.quiet = log is None
        self._order, self._log, self._trackers = order, log, trackers
        self._epochs = order.total_steps // order.steps_per_epoch
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task("starting", total=order.total_steps, note="")

    def line(self, text: str) -> None:
        """Print one line."""
        self._console.print(text, markup=False)

    def start(self, step: int, rows: Mapping[str, str], continued: str) -> None:
        """Report what is about to be trained, after ``step`` steps; start bar and clock."""
        width = max(map(len, rows))
        for name, value in rows.items():
            self.line(f"{name:{width}}  {value}")
        if continued:
            self.line(continued)
        if step < self._order.total_steps:
            self._write("start", step, self._order.epoch_of(step), environment(rows))
        self._bar.update(self._task, completed=step)
        self._bar.start()
        self.restart_clock()

    def close(self) -> None:
        """End the bar, the log and the trackers."""
        self._bar.stop()
        if self._log is not None:
            self._log.close()
        for tracker in self._trackers:
            tracker.finish()

    def restart_clock(self) -> None:
        """Measure the speed from here on, after something other than steps took time."""
        self._started, self._samples, self._steps = time.perf_counter(), 0.0, 0

    def step(self, step: int, num_samples: float) -> None:
        """Count one finished step."""
        self._samples += num_samples
        self._steps += 1
        self._bar.update(self._task, completed=step, description=self._epoch(step))

    def means(
        self, step: int, rate: float, means: Mapping[str, float], counts: Mapping[str, int]
    ) -> None:
        """Report learning rate and means since the last call, the speed, and what was left out."""
        seconds = max(time.perf_counter() - self._started, 1e-9)
        left = seconds / max(self._steps, 1) * (self._order.total_steps - step)
        speed = {
            "samples_per_second": round(self._samples / seconds, 2),
            "seconds_left": round(left, 1),
            "memory_mib": round(_peak_memory_mib(), 1),
        }
        self.restart_clock()
        note = (
            f"{format_losses(means)} | {speed['samples_per_second']:.4g} samples/s, "
            f"{timedelta(seconds=round(left))} left, {speed['memory_mib']:.0f} MiB"
        )
        names = {"skipped": "steps skipped", "left_out": "samples left out"}
        note += "".join(f", {count} {names[name]}" for name, count in counts.items())
        self._bar.update(self._task, note=f"| {note}")
        if self._bar.disable:
            self.line(f"{self._epoch(step)} step {step}/{self._order.total_steps} | {note}")
        values = {"lr": rate, **means}
        self._write("train", step, self._order.epoch_of(step - 1), {**values, **counts, **speed})
        self._track(step, {**values, **speed})

    def evaluation(self, step: int, metrics: Mapping[str, float], is_best: bool) -> None:
        """Report an evaluation."""
        figures = ", ".join(f"{name} {value:.5g}" for name, value in metrics.items())
        self.line(f"{self._epoch(step)} evaluated: {figures}{' (best)' * is_best}")
        self._write("evaluate", step, self._order.epoch_of(step - 1), metrics)
        self._track(step, metrics)

    def incident(self, step: int, skipped: int, text: str) -> None:
        """Report a step that was left out, one of ``skipped``."""
        self.line(f"left out ({skipped} so far): {text}")
        self._write("incident", step, self._order.epoch_of(step - 1), {"text": text})

    def _epoch(self, step: int) -> str:
        return f"epoch {self._order.epoch_of(step - 1) + 1}/{self._epochs}"

    def _write(self, event: str, step: int, epoch: int, values: Mapping[str, Any]) -> None:
        if self._log is not None:
            self._log.write({"event": event, "step": step, "epoch": epoch, **values})

    def _track(self, step: int, values: Mapping[str, float]) -> None:
        for tracker in self._trackers:
            tracker.log(dict(values), step=step)


def summary_rows(
    config: TrainConfig,
    order: GlobalOrder,
    accelerator: Accelerator,
    model: nn.Module,
    criterion: nn.Module,
) -> dict[str, str]:
    """What is about to be trained, in words."""
    teacher: dict[str, Tensor] = getattr(model, "teacher_state_dict", dict)()
    teacher_only = sum(tensor.numel() for tensor in teacher.values())
    parameters = sum(p.numel() for p in model.parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    in_loss = sum(p.numel() for p in criterion.parameters())
    figures = f"{parameters - teacher_only:,}"
    if trained != parameters:
        figures += f" ({trained:,} trained, the rest frozen)"
    if teacher_only:
        figures += f" + {teacher_only:,} teacher-only"
    if in_loss:
        figures += f" + {in_loss:,} in the loss"
    inner = getattr(model, "plain", None)
    name = type(model).__name__
    device, world_size = accelerator.device, accelerator.num_processes
    on = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return {
        "model": f"{name}({type(inner).__name__})" if isinstance(inner, nn.Module) else name,
        "parameters": figures,
        "budget": f"{config.epochs} epochs x {order.steps_per_epoch} steps x {config.batch_size} "
        f"samples = {order.total_steps:,} steps on {order.num_samples:,} samples",
        "device": f"{on}, {world_size} process{'es' * (world_size > 1)}, "
        f"precision {config.mixed_precision}",
        "output": str(config.output_dir),
    }


def format_losses(means: Mapping[str, float]) -> str:
    """Terms with the figures of all cycles behind each.

    Example:
        >>> format_losses({"loss": 1.5, "task/1": 0.8, "task/2": 0.7, "tokens/all/1": 2e-6})
        'loss 1.5 | task 0.8 0.7 | tokens/all 2e-06'
    """
    terms: dict[str, list[str]] = {}
    for name, value in means.items():
        term, _, cycle = name.rpartition("/")
        terms.setdefault(term if cycle.isdigit() else name, []).append(f"{value:.4g}")
    return " | ".join(f"{term} {' '.join(values)}" for term, values in terms.items())


def _peak_memory_mib() -> float:
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated() / 2**20
    if sys.platform == "win32":
        return math.nan
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
