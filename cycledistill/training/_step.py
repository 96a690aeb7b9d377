"""One optimiser step: micro-batches, the exact mean over the batch, and what can go wrong."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from accelerate.utils import send_to_device
from torch import Tensor, nn

from cycledistill.training._config import TrainConfig
from cycledistill.training._errors import NonFiniteLossError
from cycledistill.training._log import WindowEntry
from cycledistill.training._nonfinite import bad_terms, culprits, describe_term, save_reproducer
from cycledistill.training._parallel import (
    LossModule,
    gather_lists,
    gradient_sync,
    is_sharded,
    sum_counts,
)
from cycledistill.training._sampler import GlobalOrder, Share
from cycledistill.training._seeding import seed_step
from cycledistill.training._state import module_state, whole
from cycledistill.training._terms import read_terms, terms_of

REPRODUCERS_KEPT = 3


class StepOutcome(NamedTuple):
    """What a step did.

    Attributes:
        num_samples: Samples it learnt from, over all processes.
        left_out: Samples of the batch that the dataset did not deliver.
        window: This process's loss terms with their weights.
        learnt: Whether the weights changed.
        incident: Why not, if so.
        stop: Signal by which some process was asked to stop, or 0.
    """

    num_samples: float
    left_out: int
    window: list[WindowEntry]
    learnt: bool
    incident: str
    stop: int


class _MicroBatch(NamedTuple):
    place: tuple[int, int, int, int]
    share: Share
    batch: Any
    num_samples: int
    scalars: dict[str, float]


class Stepper:
    """Runs optimiser steps.

    Each sample counts the same in the gradient, however the batch was cut: a micro-batch's mean
    loss is weighted with its number of samples, and data parallelism averages over processes.
    """

    def __init__(
        self,
        config: TrainConfig,
        accelerator: Accelerator,
        wrapped: nn.Module,
        module: LossModule,
        optimizer: Any,
        order: GlobalOrder,
    ) -> None:
        self.config = config
        self.accelerator = accelerator
        self.wrapped = wrapped
        self.module = module
        self.optimizer = optimizer
        self.order = order
        self._reproducers = 0

    def run(self, step: int, batches: Iterator[Any], stop_signal: int) -> StepOutcome:
        """Do step number ``step`` (from 0).

        Raises:
            NonFiniteLossError: A loss or gradient is not finite and the run is to stop then.
        """
        planned = len(self.order.batch(step))
        done = self._backward(step, planned, batches)
        bad_here = any(bad_terms(micro.scalars) for micro in done)
        counted = sum(micro.num_samples for micro in done)
        counts = sum_counts([counted, bad_here, stop_signal], self.accelerator.device)
        num_samples = counts[0]
        stop = max(gather_lists([stop_signal])) if counts[2] else 0
        window: list[WindowEntry] = [(m.num_samples, m.scalars) for m in done if m.num_samples]
        left_out = planned - round(num_samples)
        if counts[1]:
            incident = self._report_loss(step, done)
        elif num_samples == 0:
            incident = "no sample of the batch could be used"
        else:
            if num_samples != planned:
                self._scale_gradients(planned / num_samples)
            norm = self._gradient_norm()
            if math.isfinite(norm) or self.config.mixed_precision == "fp16":
                self.optimizer.step()
                self.optimizer.zero_grad()
                if self.accelerator.is_main_process and math.isfinite(norm):
                    window.append((1.0, {"grad_norm": norm}))
                learnt = not self.optimizer.step_was_skipped
                return StepOutcome(num_samples, left_out, window, learnt, "", stop)
            incident = self._report_gradient(step, done)
        self.optimizer.zero_grad()
        return StepOutcome(num_samples, left_out, [], False, incident, stop)

    def _backward(self, step: int, planned: int, batches: Iterator[Any]) -> list[_MicroBatch]:
        process, processes = self.accelerator.process_index, self.accelerator.num_processes
        shares = self.order.shares(step, process, processes)
        done, kept = [], []
        for number, share in enumerate(shares):
            batch = send_to_device(next(batches), self.accelerator.device, non_blocking=True)
            place = (self.config.seed, step, number, process)
            seed_step(*place)
            with gradient_sync(self.wrapped, wanted=number == len(shares) - 1):
                losses, num_samples = self.wrapped(batch)
                counted = 0 if share.is_filler else num_samples
                self.accelerator.backward(losses.total * (counted * processes / planned))
            kept.append(terms_of(losses))
            done.append((place, share, batch, counted))
        # Read once for all, when the device has all of the step's work: it need not wait for us.
        read = read_terms(kept)
        return [_MicroBatch(*micro, terms) for micro, terms in zip(done, read, strict=True)]

    def _scale_gradients(self, factor: float) -> None:
        gradients = [p.grad for p in self.module.parameters() if p.grad is not None]
        torch._foreach_mul_(gradients, factor)

    def _gradient_norm(self) -> float:
        self.accelerator.unscale_gradients(self.optimizer)
        parameters = [p for p in self.module.parameters() if p.grad is not None]
        gradients: list[Tensor] = [p.grad for p in parameters if p.grad is not None]
        norm = whole(nn.utils.get_total_norm(gradients))
        if self.config.clip_grad_norm is not None:
            nn.utils.clip_grads_with_norm_(parameters, self.config.clip_grad_norm, norm)
        return float(norm)

    def _report_loss(self, step: int, done: list[_MicroBatch]) -> str:
        found = []
        for micro in done:
            if terms := bad_terms(micro.scalars):
                words = "; ".join(describe_term(name, micro.scalars[name]) for name in terms)
                found.append(f"{words}; {self._samples(micro)}")
        return self._report(step, "loss", found, done)

    def _report_gradient(self, step: int, done: list[_MicroBatch]) -> str:
        names = [
            name
            for name, parameter in self.module.named_parameters()
            if parameter.grad is not None and not math.isfinite(float(whole(parameter.grad.sum())))
        ]
        what = f"finite losses, but no finite gradient of {', '.join(names[:5]) or 'all together'}"
        found = [what] if self.accelerator.is_main_process else []
        return self._report(step, "gradient", found, done)

    def _report(self, step: int, kind: str, found: list[str], done: list[_MicroBatch]) -> str:
        incident = f"non-finite {kind} in step {step + 1} (epoch {self.order.epoch_of(step) + 1}): "
        saved = self._save_reproducers(done, everything=kind == "gradient")
        incident += " / ".join(gather_lists(found))
        if files := gather_lists(saved):
            incident += f". Batch and weights saved for cycledistill.training.replay: {files[0]}"
        if self.config.on_nonfinite == "stop":
            raise NonFiniteLossError(
                f"{incident}. To leave such steps out instead: --on-nonfinite skip"
            )
        return incident

    def _samples(self, micro: _MicroBatch) -> str:
        indices = [key.sample for key in micro.share.keys]
        positions: list[int] = []
        if not is_sharded(self.module) and len(indices) == micro.num_samples:
            seed_step(*micro.place)
            positions = culprits(self.module, micro.batch, len(indices))
        if positions:
            return f"training samples {', '.join(str(indices[p]) for p in positions)}"
        return f"no single sample to blame in the batch of training samples {indices}"

    def _save_reproducers(self, done: list[_MicroBatch], everything: bool) -> list[str]:
        if self._reproducers >= REPRODUCERS_KEPT:
            return []
        self._reproducers += 1
        state = module_state(self.module)
        folder = Path(self.config.output_dir) / "nonfinite"
        paths = []
        for micro in done:
            if everything or bad_terms(micro.scalars):
                _, step, number, process = micro.place
                path = folder / f"step-{step + 1:08d}-process-{process}-part-{number}.pt"
                indices = [key.sample for key in micro.share.keys]
                save_reproducer(path, micro.batch, state, micro.place, indices)
                paths.append(str(path))
        return paths
