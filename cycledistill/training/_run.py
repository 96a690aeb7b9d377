"""The loop: steps, log, checkpoints, evaluations."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from torch.utils.data import DataLoader

from cycledistill.training._checkpoint import CheckpointStore
from cycledistill.training._config import TrainConfig
from cycledistill.training._errors import Interrupted, TrainingError
from cycledistill.training._evaluator import Evaluator
from cycledistill.training._log import RunLog, window_means
from cycledistill.training._parallel import gather_lists, on_main
from cycledistill.training._persist import RunState
from cycledistill.training._progress import Reporter
from cycledistill.training._sampler import GlobalOrder
from cycledistill.training._signals import StopRequest
from cycledistill.training._step import StepOutcome, Stepper

SKIPS_IN_A_ROW = 100


class Run:
    """A run from where it stands to its end.

    After each step comes, in this order: the log, a checkpoint, the evaluation. So what a
    checkpoint restores is the moment before the evaluation, which is done again unless the log has
    it; nothing is lost whenever the process dies.
    """

    def __init__(
        self,
        config: TrainConfig,
        order: GlobalOrder,
        state: RunState,
        stepper: Stepper,
        evaluator: Evaluator,
        store: CheckpointStore,
        log: RunLog | None,
        reporter: Reporter,
        settings: dict[str, Any],
        before_epoch: Sequence[Callable[[int], None]],
    ) -> None:
        self.config = config
        self.order = order
        self.state = state
        self.stepper = stepper
        self.evaluator = evaluator
        self.store = store
        self.log = log
        self.reporter = reporter
        self.settings = settings
        self.before_epoch = before_epoch
        self.saved_step = state.progress.step if state.progress.step else -1
        self._skips_in_a_row = 0
        self._rate = 0.0

    def run(self, loader: DataLoader[Any]) -> None:
        """Train to the end.

        Raises:
            CheckpointError: A checkpoint could not be written.
            Interrupted: The run was asked to stop and saved its state.
            NonFiniteLossError: A loss is not finite.
        """
        progress = self.state.progress
        batches: Iterator[Any] = iter(loader)
        with StopRequest(self.state.accelerator.num_processes) as request:
            self.reporter.start(progress.step)
            try:
                self._evaluate_if_due(request)
                self._announce_epoch()
                while progress.step < self.order.total_steps:
                    self._step(batches, request)
            finally:
                self.reporter.stop()

    def _step(self, batches: Iterator[Any], request: StopRequest) -> None:
        progress = self.state.progress
        self.state.rates.before_step(progress.step)
        self._rate = float(self.state.optimizer.param_groups[0]["lr"])
        criterion: Any = self.state.module.criterion
        if hasattr(criterion, "set_progress"):
            criterion.set_progress(progress.step / self.order.total_steps)
        try:
            outcome = self.stepper.run(progress.step, batches, request.signal)
        except RuntimeError as error:
            # Some launchers end data workers together with us; then no batch can come any more.
            if request.signal and "DataLoader worker" in str(error):
                self._interrupt(request.signal)
            raise
        self.state.rates.after_step()
        progress.step += 1
        self._count(outcome)
        at_end_of_epoch = progress.step % self.order.steps_per_epoch == 0
        if progress.step % self.config.log_every == 0 or at_end_of_epoch:
            self._log_means()
        if self._checkpoint_due(at_end_of_epoch):
            self.save()
        if outcome.stop:
            self._interrupt(outcome.stop)
        self._evaluate_if_due(request)
        if at_end_of_epoch:
            self._announce_epoch()

    def save(self) -> None:
        """Save a checkpoint, unless this step has one, and delete those not kept."""
        progress = self.state.progress
        if self.saved_step != progress.step:
            state = self.state.capture(self.settings)
            on_main(lambda: self._write_checkpoint(state))
            self.saved_step = progress.step
        best = self.evaluator.best
        if self.log is not None:
            self.store.prune(self.config.keep_checkpoints, None if best is None else best[1])

    def _write_checkpoint(self, state: dict[str, Any]) -> None:
        assert self.log is not None
        self.log.sync()
        step = state["step"]
        self.store.save(step, state, {"epochs_done": step / self.order.steps_per_epoch})

    def _count(self, outcome: StepOutcome) -> None:
        progress = self.state.progress
        progress.window += outcome.window
        progress.left_out += outcome.left_out
        epoch = self.order.epoch_of(progress.step - 1)
        self.reporter.step(progress.step, epoch, outcome.num_samples)
        if outcome.learnt and self.state.average is not None:
            self.state.average.update(self.state.module.model)
        if not outcome.incident:
            self._skips_in_a_row = 0
            return
        progress.skipped += 1
        self._skips_in_a_row += 1
        self.reporter.line(f"left out ({progress.skipped} so far): {outcome.incident}")
        record = {"event": "incident", "step": progress.step, "epoch": epoch}
        self._write({**record, "text": outcome.incident})
        if self._skips_in_a_row >= SKIPS_IN_A_ROW:
            raise TrainingError(f"{SKIPS_IN_A_ROW} steps in a row left out: {outcome.incident}")

    def _log_means(self) -> None:
        progress = self.state.progress
        means = window_means(gather_lists(progress.window))
        progress.window = []
        step, epoch = progress.step, self.order.epoch_of(progress.step - 1)
        speed = self.reporter.speed(step)
        incidents = {"skipped": progress.skipped, "left_out": progress.left_out}
        counted = {name: number for name, number in incidents.items() if number}
        self.reporter.losses(step, epoch, means, speed, counted)
        record = {"event": "train", "step": step, "epoch": epoch, "lr": self._rate, **means}
        self._write({**record, **counted, **speed})
        self.state.accelerator.log({**means, "lr": self._rate, **speed}, step=step)

    def _checkpoint_due(self, at_end_of_epoch: bool) -> bool:
        step = self.state.progress.step
        every = self.config.checkpoint_every_steps
        epochs_done = step // self.order.steps_per_epoch
        return (
            step == self.order.total_steps
            or (every is not None and step % every == 0)
            or (at_end_of_epoch and epochs_done % self.config.checkpoint_every == 0)
        )

    def _evaluate_if_due(self, request: StopRequest) -> None:
        step = self.state.progress.step
        epochs_done, rest = divmod(step, self.order.steps_per_epoch)
        due = step == self.order.total_steps or epochs_done % self.config.evaluate_every == 0
        if self.evaluator.evaluate is None or rest or not due or not step:
            return
        if self.evaluator.last_step == step:
            return
        try:
            with request.interruptible():
                metrics = self.evaluator.run(step)
        except Interrupted:
            self._interrupt(request.signal)
        record = {"event": "evaluate", "step": step, "epoch": epochs_done - 1, **metrics}
        is_best = self.evaluator.take(record)
        self._write(record)
        self.reporter.evaluation(epochs_done - 1, metrics, is_best)
        self.state.accelerator.log(dict(metrics), step=step)
        if is_best:
            self.save()
        self.state.module.train()
        self.reporter.restart_clock()
        if request.signal:
            self._interrupt(request.signal)

    def _interrupt(self, number: int) -> None:
        self.save()
        step = self.state.progress.step
        name = {2: "Ctrl-C (SIGINT)", 15: "SIGTERM"}.get(number, f"signal {number}")
        self.reporter.stop()
        self.reporter.line(
            f"stopped by {name} after step {step}; checkpoint saved in {self.store.path(step)}; "
            "the same command continues from there"
        )
        raise Interrupted(128 + number)

    def _announce_epoch(self) -> None:
        if self.state.progress.step < self.order.total_steps:
            for hook in self.before_epoch:
                hook(self.order.epoch_of(self.state.progress.step))

    def _write(self, record: Mapping[str, Any]) -> None:
        if self.log is not None:
            self.log.write(record)
