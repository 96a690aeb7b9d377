"""The options that every training run has."""

from __future__ import annotations

import dataclasses
import operator
from pathlib import Path
from typing import Any, Literal

from cycledistill._device import Device

_LIMITS = {
    "at_least": operator.ge,
    "above": operator.gt,
    "at_most": operator.le,
    "below": operator.lt,
}


def free(default: Any, **limits: float) -> Any:
    """A config field that may change when a run is resumed, as it does not affect what is learnt.

    Example:
        >>> from dataclasses import dataclass, fields
        >>> @dataclass
        ... class Config:
        ...     data_dir: str = free("data")
        >>> fields(Config)[0].metadata["free"]
        True

    Args:
        default: The default.
        **limits: See `within`.
    """
    return dataclasses.field(default=default, metadata={"free": True, "limits": limits})


def within(default: Any, **limits: float) -> Any:
    """A config field whose value, unless it is None, has limits, which ``validate`` checks.

    Example:
        >>> @dataclasses.dataclass
        ... class Config(TrainConfig):
        ...     share: float = within(0.5, at_least=0, below=1)
        >>> Config(share=1.0).validate()
        Traceback (most recent call last):
            ...
        ValueError: share must be at least 0 and below 1, got 1.0

    Args:
        default: The default.
        **limits: ``at_least``, ``above``, ``at_most`` and ``below``, each with a number.
    """
    return dataclasses.field(default=default, metadata={"limits": limits})


def check_limits(config: Any) -> None:
    """Check the fields that `within` or `free` gave limits.

    Raises:
        ValueError: A value is beyond them; the text names it.
    """
    for field in dataclasses.fields(config):
        value, limits = getattr(config, field.name), field.metadata.get("limits", {})
        kept = (_LIMITS[name](value, limit) for name, limit in limits.items())
        if value is not None and not all(kept):
            texts = [f"{name.replace('_', ' ')} {limit}" for name, limit in limits.items()]
            expected = " and ".join(texts) + " or None" * (field.default is None)
            raise ValueError(f"{field.name} must be {expected}, got {value}")


@dataclasses.dataclass
class TrainConfig:
    """Options of the training loop; derive from it to add your own.

    Example:
        >>> config = TrainConfig(epochs=10, batch_size=64, lr=5e-4, lr_batch_size=512)
        >>> config.scaled_lr
        6.25e-05
    """

    output_dir: Path = free(Path("runs/train"))  # noqa: RUF009
    """Folder of everything the run writes: log, checkpoints, config.yaml, pictures. All processes
    (on all machines) must see the same folder."""

    epochs: int = within(300, at_least=1)
    """Passes over the training set (300: the paper's pose recipe, and DeiT)."""

    batch_size: int = within(512, at_least=1)
    """Samples of one optimiser step, over all processes and microbatches together (512 = 8 GPUs
    x 64: the paper's pose recipe; 1024: DeiT)."""

    accumulate: int = within(1, at_least=1)
    """Microbatches that a batch is cut into on each process: less memory, the same gradient
    (exactly the mean over the batch)."""

    drop_last: bool = True
    """Leave out the last batch of an epoch when it is smaller than the others."""

    repeated_augmentation: int = within(1, at_least=1)
    """Differently augmented copies of a sample in one epoch (3: DeiT). The epoch keeps its length,
    and so has fewer different samples."""

    lr: float = within(1e-3, above=0)
    """Learning rate before the schedule (1e-3: the paper's pose recipe; 5e-4 for lr_batch_size 512:
    DeiT)."""

    lr_batch_size: int | None = within(None, at_least=1)
    """Batch size that lr is meant for: lr is multiplied by batch_size / lr_batch_size (512: DeiT).
    None does not scale (None: the paper's pose recipe)."""

    clip_grad_norm: float | None = within(None, above=0)
    """Largest norm of the gradient of all parameters together; None does not clip (None: the
    paper's pose recipe, and DeiT)."""

    ema_decay: float | None = within(None, at_least=0, below=1)
    """Decay per step of a moving average of the weights, which is then evaluated and returned
    (0.99996: DeiT); None for no average (None: the paper's pose recipe)."""

    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    """Number format of matrix products and convolutions. fp16 needs a GPU and scales the loss."""

    device: Device = free("auto")  # noqa: RUF009
    """auto takes the GPU if there is one; naming one that is missing is an error."""

    parallel: Literal["ddp", "fsdp2"] = free("ddp")
    """With several processes, each holds the full model (ddp), or parameters, gradients and
    optimiser state are sharded over them (fsdp2)."""

    compile: bool = free(False)
    """Compile the model with torch.compile: minutes at the start, faster steps after."""

    deterministic: bool = free(False)
    """Use only GPU algorithms that give the same bits each time; slower. (CPU runs repeat bit for
    bit without it.)"""

    seed: int = within(0, at_least=0)
    """Seed of the data order, of augmentation and of all random numbers of every step."""

    num_workers: int = free(4, at_least=0)
    """Processes that load data, for each training process; 0 loads in the training process."""

    evaluate_every: int = free(1, at_least=1)
    """Epochs from one evaluation to the next; the last epoch is always evaluated."""

    resume: str = free("auto")
    """auto continues the run in output_dir if there is one; never is an error if there is one; a
    path continues from that checkpoint, or from the newest of that run."""

    allow_changes: bool = free(False)
    """Resume although settings differ from the checkpoint's (the error names them)."""

    keep_checkpoints: int = free(2, at_least=1)
    """How many of the newest checkpoints to keep, in addition to the best one."""

    checkpoint_every: int = free(1, at_least=1)
    """Epochs from one checkpoint to the next; there is always one at the end of the run."""

    checkpoint_every_steps: int | None = free(None, at_least=1)
    """Also save a checkpoint every so many steps."""

    log_every: int = free(50, at_least=1)
    """Steps from one line of log.jsonl (the means since the last one) to the next."""

    trackers: tuple[Literal["tensorboard", "wandb"], ...] = free(())
    """Where to log besides log.jsonl, through Accelerate's trackers."""

    on_nonfinite: Literal["stop", "skip"] = free("stop")
    """What to do when a loss or gradient is infinite or not a number: stop with an explanation,
    or leave the step out and count it."""

    @property
    def scaled_lr(self) -> float:
        """``lr`` for this run's ``batch_size``."""
        if self.lr_batch_size is None:
            return self.lr
        return self.lr * self.batch_size / self.lr_batch_size

    def steps_per_epoch(self, num_samples: int) -> int:
        """Number of optimiser steps in an epoch of ``num_samples``.

        Example:
            >>> TrainConfig(batch_size=32, drop_last=False).steps_per_epoch(100)
            4

        Raises:
            ValueError: There is no sample, or not one full batch under ``drop_last``.
        """
        if num_samples < 1:
            raise ValueError("the training set is empty")
        full, rest = divmod(num_samples, self.batch_size)
        if full == 0 and self.drop_last:
            raise ValueError(
                f"batch_size={self.batch_size} is more than the {num_samples} samples of the "
                "training set, and drop_last leaves out smaller batches: nothing would be trained. "
                "Lower batch_size or turn drop_last off"
            )
        return full + (rest > 0 and not self.drop_last)

    def validate(self) -> None:
        """Check ranges.

        Raises:
            ValueError: An option is out of its range; the text names it.
        """
        check_limits(self)
        if self.accumulate > self.batch_size:
            raise ValueError(
                f"accumulate={self.accumulate} is more than batch_size={self.batch_size}: each "
                "microbatch needs at least one sample"
            )
