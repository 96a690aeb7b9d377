"""Losses and gradients that are infinite or not a number: what is reported and saved."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate.utils import recursively_apply, send_to_device
from torch import Tensor, nn

from cycledistill.saving._files import replacing
from cycledistill.training._config import TrainConfig
from cycledistill.training._errors import NonFiniteLossError
from cycledistill.training._module import ForwardLoss, Losses, LossModule, bad_terms
from cycledistill.training._sampler import GlobalOrder
from cycledistill.training._seeding import seed_step
from cycledistill.training._sharding import (
    full_tensor,
    is_sharded,
    load_module_state,
    module_state,
)
from cycledistill.training.processes._communication import gather_over_processes

REPRODUCERS_KEPT = 3


class MicroBatch(NamedTuple):
    """A microbatch that was computed.

    Attributes:
        place: Seed, step, number and process, which its random numbers depend on.
        indices: Indices of its samples in the training set.
        batch: Its data.
        num_samples: Samples that count in the gradient.
        scalars: Its loss terms.
    """

    place: tuple[int, int, int, int]
    indices: list[int]
    batch: Any
    num_samples: int
    scalars: dict[str, float]


class Incidents:
    """Reports non-finite numbers, with the samples that cause them and a file to reproduce them."""

    def __init__(self, config: TrainConfig, module: LossModule, order: GlobalOrder) -> None:
        self._config = config
        self._module = module
        self._order = order
        self._reproducers = 0

    def report(self, done: Sequence[MicroBatch]) -> str:
        """Report the terms that are not finite and their samples, or else the gradients.

        All processes must call it.

        Args:
            done: This process's microbatches of a step.

        Raises:
            NonFiniteLossError: ``on_nonfinite`` is "stop".
        """
        bad = [micro for micro in done if bad_terms(micro.scalars)]
        kind, found = "loss", gather_over_processes([self._describe(micro) for micro in bad])
        if not found:  # the gradient, which is the same on all processes
            kind, bad = "gradient", list(done)
            names = [
                name
                for name, parameter in self._module.named_parameters()
                if parameter.grad is not None
                and not math.isfinite(float(full_tensor(parameter.grad.sum())))
            ]
            parameters = ", ".join(names[:5]) or "all together"
            found = [f"finite losses, but no finite gradient of {parameters}"]
        step = done[0].place[1]
        epoch = self._order.epoch_of(step)
        incident = f"non-finite {kind} in step {step + 1} (epoch {epoch + 1}): {' / '.join(found)}"
        if files := gather_over_processes(self._save_reproducers(bad)):
            incident += f". Batch and weights saved for cycledistill.training.replay: {files[0]}"
        if self._config.on_nonfinite == "stop":
            raise NonFiniteLossError(
                f"{incident}. To leave such steps out instead: --on-nonfinite skip"
            )
        return incident

    def _describe(self, micro: MicroBatch) -> str:
        """Which terms are not finite, and because of which samples."""
        words = [describe_term(name, micro.scalars[name]) for name in bad_terms(micro.scalars)]
        positions: list[int] = []
        if not is_sharded(self._module) and len(micro.indices) == micro.num_samples:
            seed_step(*micro.place)
            positions = _culprits(self._module, micro.batch, micro.num_samples)
        samples = f"no single sample to blame in the batch of training samples {micro.indices}"
        if positions:
            samples = f"training samples {', '.join(str(micro.indices[p]) for p in positions)}"
        return "; ".join([*words, samples])

    def _save_reproducers(self, bad: Sequence[MicroBatch]) -> list[str]:
        """Write batch, weights and seed of failed microbatches; returns the files."""
        if self._reproducers >= REPRODUCERS_KEPT:
            return []
        self._reproducers += 1
        state = {name: tensor.cpu() for name, tensor in module_state(self._module).items()}
        folder = Path(self._config.output_dir) / "nonfinite"
        paths = []
        for micro in bad:
            _, step, number, process = micro.place
            path = folder / f"step-{step + 1:08d}-process-{process}-part-{number}.pt"
            folder.mkdir(parents=True, exist_ok=True)
            content = {
                "batch": recursively_apply(lambda tensor: tensor.detach().cpu(), micro.batch),
                "module": state,
                "place": list(micro.place),
                "indices": micro.indices,
            }
            with replacing(path, "wb") as file:
                torch.save(content, file)
            paths.append(str(path))
        return paths


def describe_term(name: str, value: float) -> str:
    """A term in words.

    Example:
        >>> describe_term("tokens/visual/1", float("nan"))
        'tokens/visual of cycle 1 is nan'
    """
    term, _, cycle = name.rpartition("/")
    return f"{term} of cycle {cycle} is {value}" if cycle.isdigit() else f"{name} is {value}"


def replay(
    reproducer: str | Path, model: nn.Module, criterion: nn.Module, forward_loss: ForwardLoss
) -> Losses:
    """Compute the losses of a saved batch again, for example in a debugger.

    Args:
        reproducer: The file that the error message names.
        model: The model as it was passed to ``fit``; gets the saved weights.
        criterion: The loss, as it was passed to ``fit``.
        forward_loss: The function that was passed to ``fit``.
    """
    content = torch.load(reproducer, map_location="cpu", weights_only=True)
    module = LossModule(model, criterion, forward_loss).train()
    load_module_state(module, content["module"], f"reproducer {reproducer}")
    device = next(module.parameters()).device
    seed_step(*content["place"])
    losses, _ = module(send_to_device(content["batch"], device))
    return losses


@torch.no_grad()
def _culprits(module: LossModule, batch: Any, num_samples: int) -> list[int]:
    """Positions of the samples whose own loss is not finite.

    Empty if each sample alone is fine, or the batch cannot be cut into samples.
    """
    buffers = [(buffer, buffer.clone()) for buffer in module.buffers()]
    found = []

    def cut(tensor: Tensor) -> Tensor:
        cuttable = tensor.ndim and tensor.shape[0] == num_samples
        return tensor[position : position + 1] if cuttable else tensor

    try:
        for position in range(num_samples):
            losses, _ = module(recursively_apply(cut, batch))
            if bad_terms(losses.scalars()):
                found.append(position)
    except (RuntimeError, ValueError, TypeError, IndexError):
        return []
    finally:
        for buffer, saved in buffers:
            buffer.copy_(saved)
    return found
