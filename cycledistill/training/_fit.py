"""``fit``: one call that trains."""

from __future__ import annotations

import contextlib
import dataclasses
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from cycledistill.training._checkpoint import CheckpointStore
from cycledistill.training._config import TrainConfig
from cycledistill.training._config_file import save_config
from cycledistill.training._curves import draw_curves
from cycledistill.training._dataset import KeyedDataset, start_worker
from cycledistill.training._device import deterministic_algorithms, make_accelerator
from cycledistill.training._ema import MovingAverage
from cycledistill.training._evaluator import BestEvaluation, Evaluate, Evaluator, make_replica
from cycledistill.training._guards import (
    check_optimizer,
    check_options,
    check_output_dir,
    check_shared_memory,
)
from cycledistill.training._lock import locked
from cycledistill.training._log import RunLog, start_record
from cycledistill.training._parallel import (
    ForwardLoss,
    LossModule,
    fsdp_requested_by_launcher,
    lost_processes_explained,
    on_main,
    shard,
)
from cycledistill.training._persist import (
    Progress,
    RunState,
    find_checkpoint,
    settings_of,
)
from cycledistill.training._progress import Reporter, summary_rows
from cycledistill.training._run import Run
from cycledistill.training._sampler import GlobalOrder, ShareSampler
from cycledistill.training._schedule import RateSetter
from cycledistill.training._step import Stepper


@dataclasses.dataclass(frozen=True)
class FitResult:
    """What came of a run.

    Attributes:
        model: The model with its final weights, whole and in eval mode: the object that was given
            to ``fit``, or a copy of it when a moving average was kept or the weights were sharded.
        metrics: The last evaluation.
        best: The best evaluation, or ``None`` without ``best_metric``.
        steps: Optimiser steps done.
        skipped: Steps left out because of non-finite numbers.
        output_dir: Folder of log, checkpoints, config.yaml and curves.png.
        last_checkpoint: Folder of the last checkpoint.
    """

    model: Any
    metrics: dict[str, float]
    best: BestEvaluation | None
    steps: int
    skipped: int
    output_dir: Path
    last_checkpoint: Path


def fit(
    config: TrainConfig,
    *,
    model: nn.Module,
    criterion: nn.Module,
    optimizer: Optimizer,
    train_dataset: Any,
    forward_loss: ForwardLoss,
    schedule: Any = None,
    evaluate: Evaluate | None = None,
    best_metric: str | None = None,
    lower_is_better: bool = False,
    collate_fn: Callable[[list[Any]], Any] | None = None,
    before_epoch: Sequence[Callable[[int], None]] = (),
    summary: Mapping[str, Any] | None = None,
) -> FitResult:
    """Train a model, or continue where an earlier run in ``output_dir`` ended.

    Example:
        >>> import tempfile, torch
        >>> from torch import nn
        >>> from cycledistill import CycleDistillLoss, CycleWrapper
        >>> from cycledistill.training import TrainConfig, fit
        >>> blocks = [nn.Sequential(nn.Linear(4, 4), nn.GELU()) for _ in range(2)]
        >>> model = CycleWrapper(nn.Sequential(*blocks), num_cycles=2)
        >>> criterion = CycleDistillLoss(nn.MSELoss())
        >>> def forward_loss(model, criterion, batch):
        ...     return criterion(model(batch), batch), len(batch)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     config = TrainConfig(folder, epochs=2, batch_size=4, num_workers=0, device="cpu")
        ...     result = fit(
        ...         config,
        ...         model=model,
        ...         criterion=criterion,
        ...         optimizer=torch.optim.Adam(model.parameters(), lr=config.scaled_lr),
        ...         train_dataset=torch.randn(8, 3, 4),
        ...         forward_loss=forward_loss,
        ...     )
        model       CycleWrapper(Sequential)
        parameters  40
        ...
        >>> result.steps
        4

    The same code runs in one process or in many, as started by ``accelerate launch`` or
    ``torchrun``. The samples of each step, and so the result up to rounding, are the same for any
    number of them.

    Args:
        config: The options.
        model: What is trained, usually a ``CycleWrapper``. Its call in ``forward_loss`` is all that
            is asked of it.
        criterion: The loss. Its parameters, if any, are trained and saved too.
        optimizer: Made over the parameters of both.
        train_dataset: Has a length and indices. With ``set_epoch(n)`` it is told the number of the
            augmentation before a sample is asked for.
        forward_loss: ``(model, criterion, batch) -> (losses, number of samples)``; the losses are
            means over these samples and have ``total`` and ``scalars()``, as ``CycleLosses``.
        schedule: ``step -> factor of the learning rate`` such as ``WarmupSteps``, a torch
            LRScheduler (stepped every step), a timm scheduler in updates, or ``None``.
        evaluate: ``model -> metrics``; called on all processes without gradients, in eval mode.
        best_metric: Name of the metric whose best checkpoint is kept.
        lower_is_better: Whether a smaller ``best_metric`` is better.
        collate_fn: As for ``DataLoader``.
        before_epoch: Called with the epoch (from 0) when it begins or is continued.
        summary: Further lines for the summary at the start, such as what `budget_rows` returns.

    Raises:
        ValueError: Something is wrong with options, device, folder, optimiser or checkpoint; raised
            before the first step.
        TrainingError: The run cannot go on (non-finite loss, full disk, broken checkpoints).
        Interrupted: The run was asked to stop and saved a checkpoint.
    """
    config.validate()
    if fsdp_requested_by_launcher():
        config = dataclasses.replace(config, parallel="fsdp2")
    check_options(config)
    check_optimizer(optimizer, model, criterion)
    dataset = KeyedDataset(train_dataset, config.seed)
    order = GlobalOrder(config, len(dataset))
    settings = settings_of(config, len(dataset))
    folder = Path(config.output_dir)
    store = CheckpointStore(folder / "checkpoints")
    with (
        deterministic_algorithms(config.deterministic),
        lost_processes_explained(),
        contextlib.ExitStack() as held,
    ):
        accelerator = make_accelerator(config)
        check_output_dir(folder, accelerator.is_main_process)
        on_main(lambda: held.enter_context(locked(folder)))
        check_shared_memory(config, dataset[order.batch(0)[0]], accelerator.num_processes)
        checkpoint = find_checkpoint(config, store, settings)
        reporter = Reporter(accelerator.is_main_process, order.total_steps, config.epochs)

        sharded = config.parallel == "fsdp2" and accelerator.num_processes > 1
        module = LossModule(model, criterion, forward_loss).train().to(accelerator.device)
        replica = make_replica(model, config.ema_decay is not None, sharded)
        rows = summary_rows(config, order, accelerator, model, criterion)
        rates = RateSetter(optimizer, schedule)
        if config.compile:
            model.compile()
        if sharded:
            shard(module, optimizer)
        wrapped = accelerator.prepare_model(module, evaluation_mode=sharded)
        prepared = accelerator.prepare_optimizer(optimizer)
        average = None if config.ema_decay is None else MovingAverage(model, config.ema_decay)
        state = RunState(accelerator, module, prepared, rates, average, Progress())
        if checkpoint is not None:
            state.restore(checkpoint)
        evaluator = Evaluator(
            evaluate,
            best_metric,
            lower_is_better,
            accelerator,
            model,
            replica,
            average,
            config.seed,
        )

        log = RunLog(folder / "log.jsonl") if accelerator.is_main_process else None
        first_step = state.progress.step
        origin = store if checkpoint is None else CheckpointStore(checkpoint.folder.parent)
        for record in on_main(lambda: _open_run(config, store, origin, log, first_step)):
            if record["event"] == "evaluate":
                evaluator.take(record)
        accelerator.init_trackers(
            folder.resolve().name,
            {name: _number_or_text(item) for name, item in settings.items()},
            {"wandb": {"dir": str(folder)}},
        )
        rows |= {name: str(item) for name, item in (summary or {}).items()}
        reporter.summary(rows)
        if log is not None and first_step < order.total_steps:
            log.write(start_record(first_step, order.epoch_of(first_step), rows))
        if checkpoint is not None:
            done = ", which is all" if first_step >= order.total_steps else ""
            reporter.line(f"continuing from {checkpoint.folder} ({first_step} steps done{done})")
        loader: DataLoader[Any] = DataLoader(
            dataset,
            batch_sampler=ShareSampler(
                order, first_step, accelerator.process_index, accelerator.num_processes
            ),
            num_workers=config.num_workers,
            collate_fn=collate_fn,
            pin_memory=accelerator.device.type == "cuda",
            generator=torch.Generator(),
            worker_init_fn=start_worker,
        )
        stepper = Stepper(config, accelerator, wrapped, module, prepared, order)
        run = Run(
            config,
            order,
            state,
            stepper,
            evaluator,
            store,
            log,
            reporter,
            settings,
            before_epoch,
        )
        try:
            run.run(loader)
        finally:
            if log is not None:
                log.close()
            for tracker in accelerator.trackers:
                tracker.finish()
        final = evaluator.ready_model()
    if log is not None:
        draw_curves(log.path, folder / "curves.png")
    best = None
    if evaluator.best is not None:
        value, step, epoch = evaluator.best
        holder = store if store.path(step).exists() else origin
        best = BestEvaluation(str(best_metric), value, epoch, step, holder.path(step))
    return FitResult(
        model=final,
        metrics=evaluator.last,
        best=best,
        steps=state.progress.step,
        skipped=state.progress.skipped,
        output_dir=folder,
        last_checkpoint=store.path(state.progress.step),
    )


def _open_run(
    config: TrainConfig,
    store: CheckpointStore,
    origin: CheckpointStore,
    log: RunLog | None,
    first_step: int,
) -> list[dict[str, Any]]:
    """Prepare the folder; the log's records that stay."""
    assert log is not None
    store.sweep()
    for path in store.set_aside(first_step):
        warnings.warn(f"a later checkpoint was set aside: {path}", stacklevel=2)
    save_config(config, log.path.parent / "config.yaml")
    return log.start(first_step, copy_from=origin.folder.parent / "log.jsonl")


def _number_or_text(value: Any) -> int | float | str:
    return value if isinstance(value, (int, float, str)) else str(value)
