"""One run: a ViT on a task, from its config to its record."""

from __future__ import annotations

import contextlib
import functools
import platform
import shutil
import subprocess
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from cycledistill import CycleDistillLoss, CycleWrapper, count_macs
from cycledistill.training import (
    NonFiniteLossError,
    TrainConfig,
    WarmupCosine,
    fit,
    steps_per_epoch,
    training_macs,
)
from experiments._config import RunConfig
from experiments._tasks import Split, Task, augment, load_task

ROOT = Path(__file__).resolve().parents[1]


def train(config: RunConfig, folder: Path, device: str = "auto") -> dict[str, Any]:
    """Train, or continue what was stopped in ``folder``, and return the record.

    The metrics are those of the last step's weights; no step is picked. A run whose loss becomes
    infinite or not a number has a record too: ``diverged`` says where, ``metrics`` is empty.

    Args:
        config: What to train.
        folder: Checkpoints of the unfinished run; deleted when it is finished.
        device: As for ``TrainConfig``.
    """
    revision = commit()
    task = load_task(config)
    cycled = make_model(config, task)
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
    sample = task.normalized(task.val.images[:1])
    cost = {
        "epochs": config.epochs,
        "training_macs": _training_macs(config, options, cycled, sample, len(task.train.labels)),
        "macs_in_use": count_macs(
            cycled, sample, num_cycles=config.cycles_in_use
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
            metrics = _fit(config, options, cycled, task)
        except NonFiniteLossError as error:
            diverged = str(error).partition(":")[0]
    seconds = time.perf_counter() - start
    shutil.rmtree(folder)
    return {
        "key": config.key,
        "config": config.as_dict(),
        "seed": config.seed,
        "commit": revision,
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "torch": torch.__version__,
        "device": f"{platform.machine()} {next(cycled.parameters()).device.type}",
        "threads": torch.get_num_threads(),
        # Of this process: only a run that was never stopped has its whole time here.
        "budget": {**cost, "wall_seconds": round(seconds, 1), "resumed": resumed},
        "metrics": metrics,
        "diverged": diverged,
    }


def make_model(config: RunConfig, task: Task) -> CycleWrapper:
    """The wrapped ViT; its initial weights depend on seed, width and depth alone."""
    torch.manual_seed(config.seed)
    model = timm.create_model(
        "vit_tiny_patch16_224",
        img_size=task.train.images.shape[-1],
        patch_size=task.patch_size,
        in_chans=task.train.images.shape[1],
        embed_dim=config.width,
        depth=config.depth,
        num_heads=config.width // config.head_dim,
        num_classes=int(task.train.labels.max()) + 1,
    )
    return CycleWrapper(
        model,
        num_cycles=config.training_cycles,
        min_cycles=config.min_cycles,
        grad_cycles=config.grad_cycles,
        input_injection=config.input_injection,
        cycle_embedding=config.cycle_embedding,
        adapter_rank=config.adapter_rank,
    )


def make_criterion(config: RunConfig) -> CycleDistillLoss:
    """The loss; in the mode cycle the last cycle's task loss and nothing else."""
    distills = config.mode == "distill"
    return CycleDistillLoss(
        nn.CrossEntropyLoss(),
        token_weight=config.token_weight if distills else 0.0,
        distance=config.distance,
        teacher=config.teacher if distills else "next",
        detach_teacher=config.detach_teacher,
        task_cycles=config.task_cycles if distills else "last",
        prediction_weight=config.prediction_weight if distills else 0.0,
    )


@torch.no_grad()
def accuracies(model: CycleWrapper, images: Tensor, labels: Tensor, cycles: int) -> list[float]:
    """Top-1 accuracy in percent after 1, 2, ... ``cycles`` cycles.

    Args:
        model: In eval mode.
        images: Normalised, `[N, C, H, W]`.
        labels: `[N]`.
        cycles: How many cycles to run.
    """
    right = torch.zeros(cycles)
    for batch, truth in zip(images.split(500), labels.split(500), strict=True):
        predictions = model.forward_cycles(batch, num_cycles=cycles).predictions
        right += torch.tensor([float((logits.argmax(1) == truth).sum()) for logits in predictions])
    return (100 * right / len(labels)).tolist()


def _fit(
    config: RunConfig, options: TrainConfig, cycled: CycleWrapper, task: Task
) -> dict[str, float]:
    total = config.epochs * steps_per_epoch(options, len(task.train.labels))
    placed: dict[str, Split] = {}

    def data(name: str, device: torch.device) -> Split:
        if name not in placed:
            split: Split = getattr(task, name).to(device)
            placed[name] = split._replace(images=task.normalized(split.images))
        return placed[name]

    def forward_loss(model: Any, criterion: Any, indices: Tensor) -> Any:
        started = criterion.progress >= config.cycles_from
        cycled.num_cycles = config.training_cycles if started else 1
        images, labels = data("train", indices.device).take(indices)
        return criterion(model(augment(images, task.padding)), labels), len(indices)

    def evaluate(model: CycleWrapper) -> dict[str, float]:
        device = next(model.parameters()).device
        found = {}
        for name in ("val", "test"):
            values = accuracies(model, *data(name, device), config.training_cycles)
            found.update({f"{name}/accuracy/{n}": v for n, v in enumerate(values, 1)})
        return found

    result = fit(
        options,
        model=cycled,
        criterion=make_criterion(config),
        optimizer=torch.optim.AdamW(
            cycled.parameters(), lr=config.lr, weight_decay=config.weight_decay
        ),
        train_dataset=range(len(task.train.labels)),
        forward_loss=forward_loss,
        schedule=WarmupCosine(total, warmup_steps=round(config.warmup * total)),
        evaluate=evaluate,
    )
    return {name: round(value, 4) for name, value in result.metrics.items()}


def _training_macs(
    config: RunConfig, options: TrainConfig, cycled: CycleWrapper, sample: Tensor, count: int
) -> int:
    """Those of ``training_macs``, with one cycle until ``cycles_from`` and the mean of the draws.

    Truncated gradients are counted as if all were computed.
    """

    def of(cycles: int) -> int:
        cycled.num_cycles = cycles
        return training_macs(options, cycled, sample, num_samples=count)

    drawn = range(config.min_cycles or config.training_cycles, config.training_cycles + 1)
    later = sum(of(cycles) for cycles in drawn) / len(drawn)
    return round(config.cycles_from * of(1) + (1 - config.cycles_from) * later)


@functools.cache
def commit() -> str:
    """The checkout's commit, with a plus where the code that a run uses was changed since.

    Asked once, when the first run starts: what a process has loaded does not change under it.
    """
    paths = ["cycledistill", "integrations", ":(glob)experiments/*.py"]
    try:
        head = _git("rev-parse", "--short=12", "HEAD")
        return head + "+" * bool(_git("status", "--porcelain", "--", *paths))
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()
