"""What a person sees of a run: a live bar in a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Mapping
from typing import Any

import torch
from accelerate import Accelerator
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text
from torch import Tensor, nn

from cycledistill.training._config import TrainConfig
from cycledistill.training._sampler import GlobalOrder


class Reporter:
    """Prints summary, progress, evaluations and incidents; silent on all but the main process."""

    def __init__(self, is_main: bool, total_steps: int, epochs: int) -> None:
        self._console = Console(quiet=not is_main, soft_wrap=True, highlight=False)
        self._total_steps = total_steps
        self._epochs = epochs
        self._started: float | None = None
        self._samples = 0.0
        self._steps = 0
        self._live: Live | None = None
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.completed}/{task.total} {task.fields[speed]}"),
        )
        self._task = self._bar.add_task("starting", total=total_steps, speed="")
        self._losses = ""

    def summary(self, rows: Mapping[str, Any]) -> None:
        """Print what is about to be trained: a table, or a line each when not in a terminal."""
        if not self._console.is_terminal:
            width = max(map(len, rows))
            for name, value in rows.items():
                self.line(f"{name:{width}}  {value}")
            return
        table = Table(show_header=False, box=None, pad_edge=False)
        for name, value in rows.items():
            table.add_row(f"{name}", str(value), style=None)
        self._console.print(table)

    def line(self, text: str) -> None:
        """Print one line."""
        self._console.print(text, markup=False)

    def start(self, step: int) -> None:
        """Begin to measure, ``step`` steps being done."""
        self.restart_clock()
        if self._console.is_terminal and not self._console.quiet:
            self._bar.update(self._task, completed=step)
            self._live = Live(
                get_renderable=lambda: Group(self._bar, Text(self._losses)),
                console=self._console,
                refresh_per_second=4,
            )
            self._live.start()

    def stop(self) -> None:
        """Take the bar away."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def restart_clock(self) -> None:
        """Measure the speed from here on; called where something other than steps took time."""
        self._started, self._samples, self._steps = time.perf_counter(), 0.0, 0

    def step(self, step: int, epoch: int, num_samples: float) -> None:
        """Count one finished step."""
        self._samples += num_samples
        self._steps += 1
        self._bar.update(
            self._task, completed=step, description=f"epoch {epoch + 1}/{self._epochs}"
        )

    def speed(self, step: int) -> dict[str, float]:
        """Throughput since the last call, time left in seconds, peak memory in MiB."""
        assert self._started is not None
        seconds = max(time.perf_counter() - self._started, 1e-9)
        per_step = seconds / max(self._steps, 1)
        measured = {
            "samples_per_second": round(self._samples / seconds, 2),
            "seconds_left": round(per_step * (self._total_steps - step), 1),
            "memory_mib": round(_peak_memory_mib(), 1),
        }
        self.restart_clock()
        return measured

    def losses(
        self,
        step: int,
        epoch: int,
        means: Mapping[str, float],
        speed: Mapping[str, float],
        incidents: Mapping[str, int],
    ) -> None:
        """Show the means of the last steps, the speed, and what was left out so far."""
        self._losses = format_losses(means)
        note = (
            f"{speed['samples_per_second']:.4g} samples/s, "
            f"{format_duration(speed['seconds_left'])} left, {speed['memory_mib']:.0f} MiB"
        )
        names = {"skipped": "steps skipped", "left_out": "samples left out"}
        note += "".join(f", {count} {names[name]}" for name, count in incidents.items())
        self._bar.update(self._task, speed=f"| {note}")
        if self._live is None:
            place = f"epoch {epoch + 1}/{self._epochs} step {step}/{self._total_steps}"
            self.line(f"{place} | {self._losses} | {note}")

    def evaluation(self, epoch: int, metrics: Mapping[str, float], is_best: bool) -> None:
        """Show an evaluation."""
        figures = ", ".join(f"{name} {value:.5g}" for name, value in metrics.items())
        self.line(f"epoch {epoch + 1}/{self._epochs} evaluated: {figures}{' (best)' * is_best}")


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
    steps = order.total_steps
    return {
        "model": f"{name}({type(inner).__name__})" if isinstance(inner, nn.Module) else name,
        "parameters": figures,
        "budget": f"{config.epochs} epochs x {order.steps_per_epoch} steps x {order.batch_size} "
        f"samples = {steps:,} steps on {order.num_samples:,} samples",
        "device": f"{_device_name(accelerator.device)}, {accelerator.num_processes} process"
        f"{'es' * (accelerator.num_processes > 1)}, precision {config.mixed_precision}",
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


def format_duration(seconds: float) -> str:
    """A time in hours, minutes and seconds.

    Example:
        >>> format_duration(3725)
        '1:02:05'
    """
    if not math.isfinite(seconds):
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _peak_memory_mib() -> float:
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated() / 2**20
    if sys.platform == "win32":
        return math.nan
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
