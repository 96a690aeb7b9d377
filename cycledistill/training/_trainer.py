"""The training loop."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import send_to_device
from torch import nn
from torch.optim import Optimizer

from cycledistill.training._accelerator import (
    check_launcher_and_device,
    deterministic_algorithms,
    make_accelerator,
)
from cycledistill.training._checkpoint import Checkpoint, CheckpointStore
from cycledistill.training._config import TrainConfig
from cycledistill.training._config_file import plain, save_config
from cycledistill.training._curves import draw_curves
from cycledistill.training._errors import Interrupted, TrainingError
from cycledistill.training._evaluator import BestEvaluation, Evaluate, Evaluator
from cycledistill.training._guards import check_optimizer, check_trackers, warn_of_growing_tokens
from cycledistill.training._loading import KeyedDataset, make_loader
from cycledistill.training._log import RunLog, WindowEntry, window_means
from cycledistill.training._module import ForwardLoss, LossModule, bad_terms, read_terms, terms_of
from cycledistill.training._nonfinite import Incidents, MicroBatch
from cycledistill.training._output_dir import check_output_dir, locked
from cycledistill.training._progress import Reporter, summary_rows
from cycledistill.training._resume import find_checkpoint, settings_of
from cycledistill.training._sampler import GlobalOrder
from cycledistill.training._schedule import RateSetter
from cycledistill.training._seeding import seed_step
from cycledistill.training._sharding import (
    full_tensor,
    gradient_sync,
    load_module_state,
    load_optimizer_state,
    module_state,
    optimizer_state,
    shard,
)
from cycledistill.training._signals import StopRequest
from cycledistill.training.processes._communication import (
    broadcast_tensors,
    gather_over_processes,
    lost_processes_explained,
    on_main,
    place_of_process,
    sum_counts,
)

SKIPS_IN_A_ROW = 100


def fit(config: TrainConfig, **parts: Any) -> FitResult:
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

    The same code runs in one process or in several, started by ``accelerate launch`` or
    ``torchrun``. The samples of each step, and so the result up to rounding, are the same for any
    world size.

    Args:
        config: The options.
        **parts: The other arguments of `Trainer`.

    Raises:
        ValueError: An option, device, folder, optimiser or checkpoint is wrong; raised before the
            first step.
        TrainingError: The run cannot go on (non-finite loss, full disk, broken checkpoints).
        Interrupted: The run was asked to stop and saved a checkpoint.
    """
    return Trainer(config, **parts).train()


@dataclasses.dataclass(frozen=True)
class FitResult:
    """The result of a run.

    Attributes:
        model: The model with its final weights, unsharded and in eval mode: the object passed to
            ``fit``, or a copy if there is a moving average or the weights were sharded.
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


class Trainer:
    """Trains a model, see `fit`.

    Each train step is followed by the log, then a checkpoint, then the evaluation. So a checkpoint
    restores the state before the evaluation, which is repeated unless the checkpoint contains its
    result; nothing is lost whenever the process dies.

    Args:
        config: The options.
        model: Usually a ``CycleWrapper``; only ``forward_loss`` calls it.
        criterion: The loss. Its parameters, if any, are trained and saved too.
        optimizer: Holds the parameters of both.
        train_dataset: Has a length and indices. ``set_epoch(n)``, if it has one, is called with the
            epoch of the augmentation before each sample.
        forward_loss: ``(model, criterion, batch) -> (losses, number of samples)``; the losses are
            means over these samples and have ``total`` and ``scalars()``, like ``CycleLosses``.
        schedule: ``step -> factor of the learning rate`` such as ``WarmupSteps``, a torch
            LRScheduler (stepped every step), a timm scheduler in updates, or ``None``.
        evaluate: ``model -> metrics``; called on all processes without gradients, in eval mode.
        best_metric: Name of the metric whose best checkpoint is kept.
        lower_is_better: Whether a smaller ``best_metric`` is better.
        collate_fn: As for ``DataLoader``.
        before_epoch: Called with the epoch (from 0) when it begins or is resumed.
        summary: More lines for the summary at the start, such as those of `budget_rows`.
        settings: What else must not change when the run is resumed, such as the names of classes.
    """

    def __init__(
        self,
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
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        config.validate()
        self.config = config = check_launcher_and_device(config)
        check_trackers(config.trackers)
        self.module = LossModule(model, criterion, forward_loss)
        check_optimizer(optimizer, self.module)
        self.dataset = KeyedDataset(train_dataset, config.seed)
        self.order = GlobalOrder(config, len(self.dataset))
        self.settings = settings_of(config, len(self.dataset)) | plain(settings or {})
        self.folder = Path(config.output_dir)
        self.store = self.origin = CheckpointStore(self.folder / "checkpoints")
        self.log = RunLog(self.folder / "log.jsonl")
        self.raw_optimizer = optimizer
        self.rates = RateSetter(optimizer, schedule)
        self.evaluator = Evaluator(evaluate, best_metric, lower_is_better, config.seed)
        self.collate_fn = collate_fn
        self.before_epoch = before_epoch
        self.summary = {name: str(value) for name, value in (summary or {}).items()}
        self.step = 0  # optimiser steps done
        self.skipped = 0  # of them, those that changed nothing because of non-finite numbers
        self.left_out = 0  # samples that the dataset did not deliver
        self.window: list[WindowEntry] = []  # loss terms of this process since the last log line
        self._warned = False
        self._saved_step = -1
        self._skips_in_a_row = 0

    def train(self) -> FitResult:
        """Train to the end; see `fit`."""
        with (
            deterministic_algorithms(self.config.deterministic),
            lost_processes_explained(),
            contextlib.ExitStack() as held,
        ):
            self.accelerator = make_accelerator(self.config)
            self.is_main = self.accelerator.is_main_process
            self.rank, self.world_size = place_of_process()
            check_output_dir(self.folder)
            on_main(lambda: held.enter_context(locked(self.folder)))
            checkpoint = find_checkpoint(self.config, self.store, self.settings)
            self._prepare_model()
            if checkpoint is not None:
                self.load_state_dict(checkpoint)
            continued = self._open(checkpoint)
            log = self.log if self.is_main else None
            reporter = Reporter(self.order, log, self.accelerator.trackers)
            self.reporter = held.enter_context(contextlib.closing(reporter))
            self.reporter.start(self.step, self.summary, continued)
            self._loop()
            final = self.evaluator.ready_model()
        if self.is_main:
            draw_curves(self.folder / "log.jsonl", self.folder / "curves.png")
        return FitResult(
            model=final,
            metrics=self.evaluator.metrics,
            best=self.evaluator.best_of(self.store, self.origin),
            steps=self.step,
            skipped=self.skipped,
            output_dir=self.folder,
            last_checkpoint=self.store.path(self.step),
        )

    def train_step(self, batches: Iterator[Any]) -> tuple[float, str, int]:
        """One optimiser step.

        Each sample has the same weight in the gradient, however the batch is cut: the mean loss of
        a microbatch is weighted by its number of samples, and data parallelism averages over
        processes.

        Args:
            batches: This process's microbatches.

        Returns:
            Samples over all processes; why the step was left out, or ""; the signal by which some
            process was asked to stop, or 0.

        Raises:
            NonFiniteLossError: A loss or gradient is not finite, and ``on_nonfinite`` is "stop".
        """
        planned = len(self.order.batch(self.step))
        done = self._forward_backward(batches, planned)
        counted = sum(micro.num_samples for micro in done)
        bad = any(bad_terms(micro.scalars) for micro in done)
        counts = sum_counts([counted, bad, self.request.signal], self.accelerator.device)
        num_samples, any_bad, any_signal = counts
        stop = max(gather_over_processes([self.request.signal])) if any_signal else 0
        self.left_out += planned - round(num_samples)
        incident, norm = "", math.nan
        if any_bad:
            incident = self.incidents.report(done)
        elif num_samples == 0:
            incident = "no sample of the batch could be used"
        else:
            norm = self._clip_gradient(planned / num_samples)
            if not math.isfinite(norm) and self.config.mixed_precision != "fp16":
                incident = self.incidents.report(done)
        if not incident:
            self.optimizer.step()
            # At a scale below 1 it is not the scaling of the loss that overflows in fp16.
            if self.optimizer.step_was_skipped and self.accelerator.scaler.get_scale() < 1:
                incident = self.incidents.report(done)
        if not incident:
            if self.average is not None and not self.optimizer.step_was_skipped:
                self.average.update_parameters(self.module.model)
            self.window += [(m.num_samples, m.scalars) for m in done if m.num_samples]
            if self.is_main and math.isfinite(norm):
                self.window.append((1.0, {"grad_norm": norm}))
        self.optimizer.zero_grad()
        return num_samples, incident, stop

    def state_dict(self) -> dict[str, Any]:
        """Everything that changes during a run, as full tensors and numbers.

        Generators have no state to save: they are seeded by the step. All processes must call it.
        """
        scaler = self.accelerator.scaler
        window = gather_over_processes(self.window)
        self.window = window if self.is_main else []
        return {
            "settings": self.settings,
            "step": self.step,
            "skipped": self.skipped,
            "left_out": self.left_out,
            "window": window,
            "module": module_state(self.module),
            "optimizer": optimizer_state(self.module, self.raw_optimizer),
            "schedule": self.rates.state_dict(),
            "average": None if self.average is None else module_state(self.average.module),
            "scaler": None if scaler is None else scaler.state_dict(),
        }

    def load_state_dict(self, checkpoint: Checkpoint) -> None:
        """Load a checkpoint.

        Raises:
            ValueError: It does not fit the model, the criterion or the optimiser.
        """
        state, what = checkpoint.state, f"checkpoint {checkpoint.folder}"
        load_module_state(self.module, state["module"], what)
        decays = [group.get("weight_decay") for group in self.raw_optimizer.param_groups]
        load_optimizer_state(self.module, self.raw_optimizer, state["optimizer"], what)
        # Again, since torch has made a step, of learning rate 0, to get an optimiser with a state.
        load_module_state(self.module, state["module"], what)
        if self.config.allow_changes:
            for group, decay in zip(self.raw_optimizer.param_groups, decays, strict=True):
                group["weight_decay"] = decay
        self.rates.load_state_dict(state["schedule"])
        if self.average is not None:
            averages = state["average"] or module_state(self.module.model)
            load_module_state(self.average.module, averages, what)
        if self.accelerator.scaler is not None and state["scaler"]:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.step, self.skipped = state["step"], state["skipped"]
        self.left_out = state["left_out"]
        self.window = [(w, terms) for w, terms in state["window"]] if self.is_main else []
        self.evaluator.load(checkpoint.meta)

    def save(self) -> None:
        """Save a checkpoint, or add the evaluation to that of this step; delete old ones."""
        meta = {"epochs_done": self.step / self.order.steps_per_epoch, **self.evaluator.meta()}
        if self._saved_step == self.step:
            on_main(lambda: self.store.note(self.step, meta))
        else:
            state = self.state_dict()
            on_main(self.log.sync)
            on_main(lambda: self.store.save(self.step, state, meta))
            self._saved_step = self.step
        if self.is_main:
            self.store.prune(self.config.keep_checkpoints, self.evaluator.best_step)

    def _prepare_model(self) -> None:
        config, accelerator, model = self.config, self.accelerator, self.module.model
        sharded = config.parallel == "fsdp2" and self.world_size > 1
        self.module.train().to(accelerator.device)
        broadcast_tensors((*self.module.parameters(), *self.module.buffers()))
        rows = summary_rows(config, self.order, accelerator, model, self.module.criterion)
        self.summary = rows | self.summary
        self.average = self.evaluator.attach(accelerator, model, config.ema_decay, sharded)
        if config.compile:
            model.compile()
        if sharded:
            shard(self.module, self.raw_optimizer)
        self.wrapped = accelerator.prepare_model(self.module, evaluation_mode=sharded)
        self.optimizer: Any = accelerator.prepare_optimizer(self.raw_optimizer)
        self.incidents = Incidents(config, self.module, self.order)

    def _open(self, checkpoint: Checkpoint | None) -> str:
        """Prepare folder, log and trackers; returns what the run is continued from, in words."""
        continued = ""
        if checkpoint is not None:
            self.origin = CheckpointStore(checkpoint.folder.parent)
            self._saved_step = self.step if checkpoint.folder == self.store.path(self.step) else -1
            done = ", which is all" if self.step >= self.order.total_steps else ""
            continued = f"continuing from {checkpoint.folder} ({self.step} steps done{done})"
        on_main(self._open_folder)
        values = {
            name: value if isinstance(value, (int, float, str)) else str(value)
            for name, value in self.settings.items()
        }
        options = {"wandb": {"dir": str(self.folder)}}
        self.accelerator.init_trackers(self.folder.resolve().name, values, options)
        return continued

    def _open_folder(self) -> None:
        self.store.sweep()
        for path in self.store.set_aside(self.step):
            warnings.warn(f"a later checkpoint was set aside: {path}", stacklevel=2)
        save_config(self.config, self.folder / "config.yaml")
        evaluated = self.evaluator.step == self.step
        self.log.start(self.step, evaluated, copy_from=self.origin.folder.parent / "log.jsonl")

    def _loop(self) -> None:
        loader = make_loader(
            self.dataset,
            batch_sampler=self.order.batches(self.step, self.rank, self.world_size),
            num_workers=self.config.num_workers,
            collate_fn=self.collate_fn,
            pin_memory=self.accelerator.device.type == "cuda",
        )
        batches = iter(loader)  # its workers end when this function does
        with StopRequest(self.world_size) as self.request:
            self._evaluate_if_due()
            self._announce_epoch()
            while self.step < self.order.total_steps:
                self._advance(batches)

    def _advance(self, batches: Iterator[Any]) -> None:
        """A train step and what follows it."""
        self.rates.before_step(self.step)
        self._rate = float(self.raw_optimizer.param_groups[0]["lr"])
        scheduled: tuple[Any, ...] = (self.module.model, self.module.criterion)
        for module in scheduled:
            if hasattr(module, "set_progress"):
                module.set_progress(self.step / self.order.total_steps)
        try:
            num_samples, incident, stop = self.train_step(batches)
        except RuntimeError as error:
            # Some launchers end the data workers too; then there are no more batches.
            if self.request.signal and "DataLoader worker" in str(error):
                self._interrupt(self.request.signal)
            raise
        self.rates.after_step()
        self.step += 1
        self._count(num_samples, incident)
        if self._is_due(1) or self.step % self.config.log_every == 0:
            self._log_means()
        every = self.config.checkpoint_every_steps
        if self._is_due(self.config.checkpoint_every) or (every and self.step % every == 0):
            self.save()
        if stop:
            self._interrupt(stop)
        self._evaluate_if_due()
        if self._is_due(1):
            self._announce_epoch()

    def _is_due(self, every: int) -> bool:
        """Whether an epoch has ended whose number is a multiple of ``every``, or the last one."""
        epochs_done, rest = divmod(self.step, self.order.steps_per_epoch)
        return rest == 0 and (epochs_done % every == 0 or epochs_done == self.config.epochs)

    def _forward_backward(self, batches: Iterator[Any], planned: int) -> list[MicroBatch]:
        microbatches = self.order.microbatches(self.step, self.rank, self.world_size)
        done, kept = [], []
        for number, (keys, is_filler) in enumerate(microbatches):
            batch = send_to_device(next(batches), self.accelerator.device, non_blocking=True)
            place = (self.config.seed, self.step, number, self.rank)
            seed_step(*place)
            with gradient_sync(self.wrapped, wanted=number == len(microbatches) - 1):
                losses, num_samples = self.wrapped(batch)
                counted = 0 if is_filler else num_samples
                self.accelerator.backward(losses.total * (counted * self.world_size / planned))
            kept.append(terms_of(losses))
            done.append((place, [key.sample for key in keys], batch, counted))
        # One read, after all of the step's work was queued, so that the device never waits for us.
        read = read_terms(kept)
        return [MicroBatch(*micro, terms) for micro, terms in zip(done, read, strict=True)]

    def _clip_gradient(self, factor: float) -> float:
        """Multiply the gradient, clip it, and return its norm before clipping."""
        parameters = [p for p in self.module.parameters() if p.grad is not None]
        gradients = [p.grad for p in parameters if p.grad is not None]
        if factor != 1:
            torch._foreach_mul_(gradients, factor)
        self.accelerator.unscale_gradients(self.optimizer)
        # The full norm: some versions of torch round the norm differently on each process.
        norm = full_tensor(nn.utils.get_total_norm(gradients))
        if self.config.clip_grad_norm is not None:
            nn.utils.clip_grads_with_norm_(parameters, self.config.clip_grad_norm, norm)
        return float(norm)

    def _count(self, num_samples: float, incident: str) -> None:
        self.reporter.step(self.step, num_samples)
        self._skips_in_a_row = self._skips_in_a_row + 1 if incident else 0
        if incident:
            self.skipped += 1
            self.reporter.incident(self.step, self.skipped, incident)
        if self._skips_in_a_row >= SKIPS_IN_A_ROW:
            raise TrainingError(f"{SKIPS_IN_A_ROW} steps in a row left out: {incident}")

    def _log_means(self) -> None:
        means = window_means(gather_over_processes(self.window))
        self.window = []
        self._warned = self._warned or warn_of_growing_tokens(means)
        counts = {"skipped": self.skipped, "left_out": self.left_out}
        counts = {name: number for name, number in counts.items() if number}
        self.reporter.means(self.step, self._rate, means, counts)

    def _evaluate_if_due(self) -> None:
        evaluated = self.evaluator.evaluate is None or self.evaluator.step == self.step
        if self.step == 0 or evaluated or not self._is_due(self.config.evaluate_every):
            return
        try:
            with self.request.interruptible():
                is_best = self.evaluator.run(self.step, self.order.epoch_of(self.step - 1))
        except Interrupted:
            self._interrupt(self.request.signal)
        self.reporter.evaluation(self.step, self.evaluator.metrics, is_best)
        if is_best or self._saved_step == self.step:
            self.save()
        self.module.train()
        self.reporter.restart_clock()

    def _interrupt(self, number: int) -> None:
        self.save()
        name = {2: "Ctrl-C (SIGINT)", 15: "SIGTERM"}.get(number, f"signal {number}")
        self.reporter.line(
            f"stopped by {name} after step {self.step}; checkpoint saved in "
            f"{self.store.path(self.step)}; the same command continues from there"
        )
        raise Interrupted(128 + number)

    def _announce_epoch(self) -> None:
        if self.step < self.order.total_steps:
            for hook in self.before_epoch:
                hook(self.order.epoch_of(self.step))
