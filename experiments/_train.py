"""One run, from its config to its record."""

from __future__ import annotations

import contextlib
import shutil
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from cycledistill import CycleDistillLoss, CycleWrapper, FoldLoss, count_macs
from cycledistill.training import (
    NonFiniteLossError,
    TrainConfig,
    WarmupCosine,
    fit,
    training_macs,
)
from experiments._config import RunConfig
from experiments._images import load_images
from experiments._people import load_people
from experiments._record import commit, record
from experiments._results import save_weights, weights_file
from experiments._task import Task


def train(config: RunConfig, folder: Path, device: str = "auto") -> dict[str, Any]:
    """Train, or continue what was stopped in ``folder``, and return the record.

    The metrics are those of the last step's weights; no step is picked. A run whose loss becomes
    infinite or not a number has a record too: ``diverged`` says where, ``metrics`` is empty.

    Args:
        config: What to train.
        folder: Checkpoints of the unfinished run; deleted when it is finished. Weights that can
            teach, those of mode cycle, are kept beside it, see `weights_file`; in mode fold the
            teacher's must stand there.
        device: As for ``TrainConfig``.
    """
    revision = commit()
    torch.backends.cuda.matmul.allow_tf32 = True  # as convolutions on a GPU have it anyway
    task = load_task(config)
    cycled, teacher = make_model(config, task), load_teacher(config, task, folder.parent)
    if teacher is not None and config.warm:
        cycled.load_state_dict(teacher.state_dict())
    options = TrainConfig(
        output_dir=folder,
        epochs=config.epochs,
        batch_size=config.batch_size,
        drop_last=False,
        lr=config.lr,
        device=device,  # type: ignore[arg-type]
        seed=config.seed,
        num_workers=0,
        evaluate_every=config.epochs,
        checkpoint_every=max(1, config.epochs // 10),
        keep_checkpoints=1,
        log_every=10**9,
    )
    cost = {
        "epochs": config.epochs,
        "training_macs": _training_macs(config, options, cycled, task),
        "macs_in_use": count_macs(
            cycled, task.example, num_cycles=config.inference_cycles
        ).with_attention_products,
    }
    resumed = (folder / "checkpoints").is_dir()
    start = time.perf_counter()
    folder.mkdir(parents=True, exist_ok=True)
    metrics, diverged = {}, ""
    with (
        open(folder / "output.txt", "a", encoding="utf-8") as output,
        contextlib.redirect_stdout(output),
    ):
        try:
            metrics = _fit(config, options, cycled, task, make_criterion(config, task, teacher))
            if config.mode == "cycle":
                save_weights(cycled.state_dict(), weights_file(config.key, folder.parent), None)
        except NonFiniteLossError as error:
            diverged = str(error).partition(":")[0]
    seconds = time.perf_counter() - start
    shutil.rmtree(folder)
    trained_on = next(cycled.parameters()).device
    # Of this process: only a run that was never stopped has its whole time here.
    return record(
        config, revision, trained_on, {**cost, "resumed": resumed}, seconds, metrics, diverged
    )


def load_task(config: RunConfig) -> Task:
    """The task of a run; splits are the same for every seed.

    Raises:
        FileNotFoundError: A folder of data is missing.
        ValueError: There are fewer training samples than the run wants.
    """
    return load_people(config) if config.task == "lspet" else load_images(config)


def macs_of_cycles(model: nn.Module, example: Tensor, tokens: Tensor, cycles: int) -> int:
    """Of one sample: of the model, and of its ``blocks`` once more for each further cycle.

    Args:
        model: A plain model.
        example: Its input.
        tokens: Something of the shape that enters its blocks, `[1, T, D]`.
        cycles: Cycles in use.
    """
    once = count_macs(model, example).with_attention_products
    blocks: Any = model.blocks
    again = count_macs(nn.Sequential(*blocks), tokens).with_attention_products
    return once + (cycles - 1) * again


def make_model(config: RunConfig, task: Task) -> CycleWrapper:
    """The wrapped model; its initial weights depend on task, seed and size alone."""
    torch.manual_seed(config.seed)
    return CycleWrapper(
        task.model(config),
        num_cycles=config.training_cycles,
        blocks="blocks",
        min_cycles=config.min_cycles,
        grad_cycles=config.grad_cycles,
        input_injection=config.input_injection,
        cycle_embedding=config.cycle_embedding,
        adapter_rank=config.adapter_rank,
    )


def load_teacher(config: RunConfig, task: Task, work: Path) -> CycleWrapper | None:
    """The frozen teacher of mode fold."""
    if config.taught_by is None:
        return None
    teacher = make_model(config.taught_by, task)
    teacher.load_state_dict(load_file(weights_file(config.taught_by.key, work)))
    return teacher.eval()


def make_criterion(
    config: RunConfig, task: Task, teacher: CycleWrapper | None = None
) -> CycleDistillLoss | FoldLoss:
    """The loss; in the mode cycle the last cycle's task loss and nothing else."""
    if teacher is not None:
        loss = task.loss(config)
        distance = task.teaching(loss)
        return FoldLoss(loss, teacher, config.truth_weight, distance, config.temperature)
    distills = config.mode == "distill"
    groups = task.token_groups
    if config.token_group is not None:
        groups = {config.token_group: task.parts[config.token_group]}
    return CycleDistillLoss(
        task.loss(config),
        token_groups=groups,
        token_weight=config.token_weight if distills else 0.0,
        distance=config.distance,
        teacher=config.teacher if distills else "next",
        detach_teacher=config.detach_teacher,
        task_cycles=config.task_cycles if distills else "last",
        prediction_weight=config.prediction_weight if distills else 0.0,
        prediction_distance=task.prediction_distance,
    )


def _fit(
    config: RunConfig, options: TrainConfig, cycled: CycleWrapper, task: Task, criterion: nn.Module
) -> dict[str, float]:
    total = config.epochs * options.steps_per_epoch(task.num_samples)

    def forward_loss(model: Any, criterion: Any, indices: Tensor) -> Any:
        inputs, targets = task.batch(indices)
        if config.mode == "fold":
            return criterion(model(inputs), *targets, inputs=inputs), len(indices)
        started = criterion.progress >= config.cycles_from
        cycled.num_cycles = config.training_cycles if started else 1
        return criterion(model(inputs), *targets), len(indices)

    def evaluate(model: CycleWrapper) -> dict[str, float]:
        found = {}
        for split in ("val", "test"):
            values = task.scores(model, split, config.training_cycles)
            found.update({f"{split}/{config.metric}/{n}": v for n, v in enumerate(values, 1)})
        return found

    result = fit(
        options,
        model=cycled,
        criterion=criterion,
        optimizer=torch.optim.AdamW(
            [*cycled.parameters(), *criterion.parameters()],
            lr=config.lr,
            weight_decay=config.weight_decay,
        ),
        train_dataset=range(task.num_samples),
        forward_loss=forward_loss,
        schedule=WarmupCosine(total, warmup_steps=round(config.warmup * total)),
        evaluate=evaluate,
    )
    return {name: round(value, 4) for name, value in result.metrics.items()}


def _training_macs(
    config: RunConfig, options: TrainConfig, cycled: CycleWrapper, task: Task
) -> int:
    """Those of ``training_macs``, with one cycle until ``cycles_from`` and the mean of the draws.

    Truncated gradients are counted as if all were computed. In mode fold the teacher's training
    counts, and its forward passes, each a third of what training takes.
    """

    def of(cycles: int) -> int:
        cycled.num_cycles = cycles
        return training_macs(options, cycled, task.example, num_samples=task.num_samples)

    if config.mode == "fold":
        total = of(1) + of(config.num_cycles) * 4 / 3
        cycled.num_cycles = 1
        return round(total)
    drawn = range(config.min_cycles or config.training_cycles, config.training_cycles + 1)
    later = sum(of(cycles) for cycles in drawn) / len(drawn)
    return round(config.cycles_from * of(1) + (1 - config.cycles_from) * later)
