"""A pretrained network that goes on training, plain or in cycles: the run and its record."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from cycledistill import CycleDistillLoss, CycleWrapper, FoldLoss, count_macs
from experiments._config import TEACHER_SEED, hash_of
from experiments._record import commit, record
from experiments._results import save_weights, weights_file
from experiments._retrofit_tasks import RetrofitTask, load_retrofit_task


@dataclass(frozen=True)
class RetrofitRun:
    """A small network that was trained on other data, or on less of it, and its further training.

    Attributes:
        task: ``"images"``: a ViT of six blocks that knows CIFAR-10's first five classes learns the
            other five from few images. ``"text"``: a GPT-2 of six blocks on bytes of English goes
            on with the text that it was pretrained on.
        mode: As of ``RunConfig``: plain, cycle (loss on the last cycle alone, used with all),
            distill (loss on every cycle) or fold (plain, taught by a frozen run of mode cycle,
            from whose weights it starts).
        epochs: Passes over the few images, or hundreds of steps on text.
        seed: Of the choice of images, the new head, the order of samples and the augmentation.
        pretrains: Whether it starts from random weights, on the data that comes first.
        per_class: Images of each class.
        num_cycles: Cycles in training, but in mode plain and fold.
        token_weight: As of ``CycleDistillLoss``.
        blocks: As of ``CycleWrapper``.
        gate: As of ``CycleWrapper``.
        gate_rate: Factor of the learning rate for what later cycles alone have, without decay.
        cycle_norm: As of ``CycleWrapper``.
        cycles_until: As of ``CycleWrapper``.
        batch_size: Samples of a step.
        lr: Largest learning rate of AdamW; warm-up over a twentieth, then straight down to 0.
        weight_decay: Of AdamW.
    """

    task: Literal["images", "text"]
    mode: Literal["plain", "cycle", "distill", "fold"]
    epochs: int
    seed: int = 0
    pretrains: bool = False
    per_class: int = 50
    num_cycles: int = 2
    token_weight: float = 0.0
    blocks: str | None = None
    gate: bool | str = False
    gate_rate: float = 1.0
    cycle_norm: str | None = None
    cycles_until: float = 1.0
    batch_size: int = 50
    lr: float = 1e-3
    weight_decay: float = 0.05

    @property
    def training_cycles(self) -> int:
        """Cycles that training runs."""
        return self.num_cycles if self.mode in ("cycle", "distill") else 1

    @property
    def inference_cycles(self) -> int:
        """Cycles that the trained model is meant to be used with."""
        return self.num_cycles if self.mode == "cycle" else 1

    @property
    def metric(self) -> Literal["accuracy", "perplexity"]:
        """The score: top-1 accuracy in percent, or the perplexity of a byte."""
        return "accuracy" if self.task == "images" else "perplexity"

    @property
    def key(self) -> str:
        """Sixteen hexadecimal digits, a hash of what differs from the defaults."""
        changed = {f.name: v for f in fields(self) if (v := getattr(self, f.name)) != f.default}
        return hash_of({"engine": "retrofit", **changed})

    @property
    def taught_by(self) -> RetrofitRun | None:
        """The frozen teacher's run, in mode fold: it sees the same images, in another order."""
        if self.mode != "fold":
            return None
        return replace(self, mode="cycle", seed=self.seed + TEACHER_SEED)

    def seeded(self, seed: int) -> RetrofitRun:
        """The run with another seed."""
        return replace(self, seed=seed)

    def as_dict(self) -> dict[str, Any]:
        """All fields, for the record."""
        return asdict(self)


def retrofit(config: RetrofitRun, work: Path) -> dict[str, Any]:
    """Train and return the record; the weights are left in ``work``, for students.

    Args:
        config: What to train.
        work: Folder of weights and of decoded images. In mode fold the teacher's weights must
            stand there.
    """
    revision, start = commit(), time.perf_counter()
    task = load_retrofit_task(config, work)
    teacher = None
    if config.taught_by is not None:
        teacher = _model(config.taught_by, task)
        teacher.load_state_dict(load_file(weights_file(config.taught_by.key, work)))
    cycled = _model(config, task)
    if teacher is not None:
        plain = cycled.plain.state_dict()
        cycled.load_state_dict({k: v for k, v in teacher.state_dict().items() if k in plain})
    macs = {
        cycles: count_macs(cycled, task.example, num_cycles=cycles).with_attention_products
        for cycles in range(1, config.num_cycles + 1)
    }
    steps = config.epochs * task.steps_per_epoch
    cost = _fit(cycled, _criterion(config, task, teacher), task, config, steps, macs)
    if config.taught_by is not None:  # the teacher's training, and its forward passes
        cost += steps * config.batch_size * 4 * macs[config.num_cycles]
    metrics = {}
    diverged = "" if _finite(cycled) else "non-finite weights"
    if not diverged:
        weights = {name: value.clone() for name, value in cycled.state_dict().items()}  # some tied
        save_weights(weights, weights_file(config.key, work), None)
        for split in ("val", "test"):
            scores = task.scores(cycled.eval(), split, task.cycles_scored(config.training_cycles))
            for cycles, score in enumerate(scores, 1):
                metrics[f"{split}/{config.metric}/{cycles}"] = round(score, 4)
    budget = {
        "epochs": config.epochs,
        "training_macs": cost,
        "macs_in_use": macs[config.inference_cycles],
    }
    seconds = time.perf_counter() - start
    return record(config, revision, torch.device("cpu"), budget, seconds, metrics, diverged)


def _model(config: RetrofitRun, task: RetrofitTask) -> CycleWrapper:
    torch.manual_seed(config.seed)
    cycles = config.training_cycles
    return CycleWrapper(
        task.model(),
        num_cycles=cycles,
        blocks=config.blocks,
        batched=True,
        gate=config.gate if cycles > 1 else False,
        cycle_norm=config.cycle_norm,
        cycles_until=config.cycles_until,
    )


def _criterion(
    config: RetrofitRun, task: RetrofitTask, teacher: CycleWrapper | None
) -> CycleDistillLoss | FoldLoss:
    if teacher is not None:
        return FoldLoss(task.loss, teacher.eval())
    last = config.mode == "cycle"
    return CycleDistillLoss(
        task.loss, token_weight=config.token_weight, task_cycles="last" if last else "all"
    )


def _fit(
    cycled: CycleWrapper,
    criterion: CycleDistillLoss | FoldLoss,
    task: RetrofitTask,
    config: RetrofitRun,
    steps: int,
    macs: dict[int, int],
) -> int:
    """Train; returns the multiply-accumulates, three times those of the forward passes."""
    plain = {id(parameter) for parameter in cycled.plain.parameters()}
    later = [parameter for parameter in cycled.parameters() if id(parameter) not in plain]
    groups: list[dict[str, Any]] = [
        {"params": cycled.plain.parameters(), "factor": 1.0, "weight_decay": config.weight_decay},
        {"params": later, "factor": config.gate_rate, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=config.lr)
    cost = 0
    cycled.train()
    for step in range(steps):
        rate = config.lr * min(1.0, (step + 1) / (0.05 * steps)) * (1 - step / steps)
        for group in optimizer.param_groups:
            group["lr"] = rate * group["factor"]
        cycled.set_progress(step / steps)
        inputs, targets = task.batch(config.batch_size)
        if isinstance(criterion, FoldLoss):
            loss = criterion(cycled(inputs), targets, inputs=inputs).total
        else:
            loss = criterion(cycled(inputs), targets).total
        cost += 3 * macs[cycled.cycles_run] * len(inputs)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return cost


def _finite(model: nn.Module) -> bool:
    values: list[Tensor] = list(model.state_dict().values())
    return all(bool(value.isfinite().all()) for value in values)
