"""A small task with everything that has a state: dropout, augmentation, random cycles, a loss with
parameters, teacher-only parameters, moving average, schedule. Also a program, to be run and killed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from cycledistill import CycleDistillLoss, CycleWrapper
from cycledistill.training import (
    FitResult,
    TrainConfig,
    WarmupCosine,
    fit,
    run_cli,
)
from cycledistill.training.processes import evaluation_loader, sum_over_processes

WIDTH = 6


class Points(Dataset):
    """Noisy token sequences of three classes; augmentation by all three global generators."""

    def __init__(self, size: int = 37, augment: bool = True, dtype: torch.dtype = torch.float64):
        centres = torch.randn(
            3, 4, WIDTH, generator=torch.Generator().manual_seed(7), dtype=torch.float64
        )
        generator = torch.Generator().manual_seed(size)
        self.labels = torch.randint(0, 3, (size,), generator=generator)
        noise = torch.randn(size, 4, WIDTH, generator=generator, dtype=torch.float64)
        self.points = (centres[self.labels] + noise).to(dtype)
        self.augment = augment
        self.epoch = 0
        self.unreadable: int | None = None

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.points)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if index == self.unreadable:
            raise ValueError(f"cannot read sample {index}")
        point = self.points[index]
        if self.augment:
            scale = random.uniform(0.9, 1.1) + 0.01 * np.random.randn() + 0.001 * self.epoch
            point = point * scale + 0.1 * torch.randn_like(point)
        return {"points": point, "label": self.labels[index], "index": index}


class Net(nn.Module):
    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.embed = nn.Linear(WIDTH, WIDTH)
        self.position = nn.Parameter(torch.zeros(4, WIDTH))  # of no child, as a class token is
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH), nn.GELU()) for _ in range(2)
        )
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(WIDTH, 3)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, points: Tensor) -> Tensor:
        if self.training:
            self.calls += 1
        tokens = self.embed(points) + self.position
        for block in self.blocks:
            tokens = block(tokens)
        return self.head(self.dropout(tokens).mean(1))


class ScaledCrossEntropy(nn.Module):
    """A task loss that learns a parameter, as RLE's flow does."""

    def __init__(self) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(1))

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        return nn.functional.cross_entropy(logits * self.log_scale.exp(), labels)


def parts(
    seed: int = 3,
    dropout: float = 0.2,
    dtype: torch.dtype = torch.float64,
    cycles: int = 3,
    min_cycles: int | None = 1,
    teacher_only: bool = True,
) -> tuple[CycleWrapper, CycleDistillLoss]:
    torch.manual_seed(seed)
    model = CycleWrapper(
        Net(dropout),
        num_cycles=cycles,
        min_cycles=min_cycles,
        cycle_embedding=teacher_only,
        token_dim=WIDTH if teacher_only else None,
    ).to(dtype)
    criterion = CycleDistillLoss(ScaledCrossEntropy(), token_weight=0.1, detach_teacher=False)
    return model, criterion.to(dtype)


def forward_loss(model: Any, criterion: Any, batch: Any) -> tuple[Any, int]:
    return criterion(model(batch["points"]), batch["label"]), len(batch["label"])


def make_evaluate(dataset: Dataset) -> Callable[[Any], dict[str, float]]:
    def evaluate(model: Any) -> dict[str, float]:
        found = {"right/1": 0.0, "right/2": 0.0, "count": 0.0, "loss": 0.0}
        for batch in evaluation_loader(dataset, batch_size=8):
            for cycles in (1, 2):
                logits = model(batch["points"], num_cycles=cycles)
                found[f"right/{cycles}"] += (logits.argmax(1) == batch["label"]).sum().item()
            found["count"] += len(logits)
            found["loss"] += nn.functional.cross_entropy(
                logits, batch["label"], reduction="sum"
            ).item()
        total = sum_over_processes(found)
        count = total["count"]
        return {
            "accuracy/1": total["right/1"] / count,
            "accuracy/2": total["right/2"] / count,
            "loss": total["loss"] / count,
            "count": count,
        }

    return evaluate


def default_config(folder: Path | str, **changes: Any) -> TrainConfig:
    options: dict[str, Any] = {
        "output_dir": Path(folder),
        "epochs": 3,
        "batch_size": 8,
        "drop_last": False,
        "lr": 0.02,
        "ema_decay": 0.9,
        "clip_grad_norm": 1.0,
        "num_workers": 0,
        "log_every": 1,
        "device": "cpu",
    }
    return TrainConfig(**{**options, **changes})


def train(config: TrainConfig, size: int = 37, augment: bool = True, **options: Any) -> FitResult:
    kept = {
        name: options.pop(name)
        for name in ("dropout", "cycles", "min_cycles", "teacher_only", "dtype", "seed")
        if name in options
    }
    config.validate()
    model, criterion = parts(**kept)
    dtype = kept.get("dtype", torch.float64)
    dataset = options.pop("dataset", None) or Points(size, augment, dtype)
    optimizer = options.pop("optimizer", torch.optim.AdamW)(
        [*model.parameters(), *criterion.parameters()], lr=config.scaled_lr
    )
    steps = config.steps_per_epoch(len(dataset))
    defaults: dict[str, Any] = {
        "schedule": WarmupCosine(config.epochs * steps, warmup_steps=min(3, steps), start=0.1),
        "evaluate": make_evaluate(Points(21, augment=False, dtype=dtype)),
        "best_metric": "accuracy/1",
        "forward_loss": forward_loss,
    }
    return fit(
        config,
        model=model,
        criterion=criterion,
        optimizer=optimizer,
        train_dataset=dataset,
        **{**defaults, **options},
    )


def losses(folder: Path | str) -> list[dict[str, Any]]:
    """The log without what differs from run to run (speed, memory, when it was continued)."""
    speeds = ("samples_per_second", "seconds_left", "memory_mib")
    lines = (Path(folder) / "log.jsonl").read_text().splitlines()
    return [
        {name: value for name, value in json.loads(line).items() if name not in speeds}
        for line in lines
        if '"event": "start"' not in line
    ]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("--pause", type=float, default=0.0, help="seconds for each sample")
    parser.add_argument("--evaluation-pause", type=float, default=0.0)
    parser.add_argument("--save", help="file for the final weights")
    parser.add_argument("--options", default="{}", help="TrainConfig fields as JSON")
    parser.add_argument("--train-options", default="{}", help="arguments of train() as JSON")
    parser.add_argument("--poison", type=int, help="sample to be made NaN")
    parser.add_argument("--unreadable", type=int, help="sample that raises an error")
    parser.add_argument("--seed-by-rank", action="store_true", help="other weights on each rank")
    args = parser.parse_args()
    options = json.loads(args.train_options)
    if args.seed_by_rank:
        options["seed"] = 3 + int(os.environ.get("RANK", "0"))
    dataset = Points(options.pop("size", 37), options.pop("augment", True))
    if args.poison is not None:
        dataset.points[args.poison] = torch.nan
    dataset.unreadable = args.unreadable
    evaluate = make_evaluate(Points(21, augment=False))

    def slow_evaluate(model: Any) -> dict[str, float]:
        print("evaluating", flush=True)
        time.sleep(args.evaluation_pause)
        return evaluate(model)

    def slow_forward(model: Any, criterion: Any, batch: Any) -> tuple[Any, int]:
        time.sleep(args.pause)
        return forward_loss(model, criterion, batch)

    result = train(
        default_config(args.folder, **json.loads(args.options)),
        dataset=dataset,
        evaluate=slow_evaluate,
        forward_loss=slow_forward,
        **options,
    )
    if args.save and os.environ.get("RANK", "0") == "0":
        state = dict(result.model.named_parameters())
        torch.save({"state": state, "metrics": result.metrics}, args.save)


if __name__ == "__main__":
    run_cli(main)
