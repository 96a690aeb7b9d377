"""The options that every training run has."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal


def free(default: Any) -> Any:
    """A config field that may differ when a run is resumed: it does not change what is learnt.

    Example:
        >>> from dataclasses import dataclass, fields
        >>> @dataclass
        ... class Config:
        ...     data_dir: str = free("data")
        >>> fields(Config)[0].metadata["free"]
        True
    """
    return dataclasses.field(default=default, metadata={"free": True})


@dataclasses.dataclass
class TrainConfig:
    """Options of the training loop; examples add their own by deriving from it.

    Example:
        >>> config = TrainConfig(epochs=10, batch_size=64, lr=5e-4, lr_batch_size=512)
        >>> config.scaled_lr
        6.25e-05
    """

    output_dir: Path = free(Path("runs/train"))  # noqa: RUF009
    """Folder of everything the run writes: log, checkpoints, config.yaml, pictures. All processes
    (on all machines) must see the same folder."""

    epochs: int = 300
    """Passes over the training set (300: paper, section 4.1.2)."""

    batch_size: int = 512
    """Samples of one optimiser step, over all processes and microbatches together (512 = 8 GPUs
    x 64: the paper's released recipe)."""

    accumulate: int = 1
    """Microbatches that one batch is cut into on every process; more of them need less memory
    and give the same gradient (exactly the mean over the batch)."""

    drop_last: bool = True
    """Leave out the last batch of an epoch when it is smaller than the others."""

    repeated_augmentation: int = 1
    """How many differently augmented copies of a sample stand in one epoch (3: DeiT). The epoch
    keeps its length and so has fewer different samples."""

    lr: float = 1e-3
    """Learning rate before the schedule (1e-3: paper, section 4.1.2)."""

    lr_batch_size: int | None = None
    """When set, lr is meant for this batch size and is multiplied by batch_size / lr_batch_size
    (512: DeiT; the paper does not scale)."""

    clip_grad_norm: float | None = None
    """Largest norm of the gradient of all parameters together; None does not clip (None: the
    paper's released recipe)."""

    ema_decay: float | None = None
    """Decay per step of the moving average of the weights, which is then what is evaluated and
    handed back (0.99996: DeiT); None keeps none (None: the paper's released recipe)."""

    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    """Number format of the heavy operations. fp16 needs a GPU and uses loss scaling."""

    device: Literal["auto", "cpu", "cuda", "mps"] = free("auto")
    """auto takes the GPU when there is one; asking for one that is missing is an error."""

    parallel: Literal["ddp", "fsdp2"] = free("ddp")
    """How several processes work together: each holds the full model (ddp), or parameters,
    gradients and optimiser state are divided among them (fsdp2)."""

    compile: bool = free(False)
    """Compile the model with torch.compile: minutes at the start, faster steps after."""

    deterministic: bool = free(False)
    """Let the GPU use only algorithms that give the same bits each time; slower. (On the CPU
    runs repeat bit by bit without it.)"""

    seed: int = 0
    """Seed of the data order, of augmentation and of all random numbers of every step."""

    num_workers: int = free(4)
    """Processes that load data, for each training process; 0 loads in the training process."""

    evaluate_every: int = free(1)
    """Epochs from one evaluation to the next; the last epoch is always evaluated."""

    resume: str = free("auto")
    """auto continues the run in output_dir if there is one; never refuses to touch it; a path
    continues from that checkpoint (or from the newest of that run)."""

    allow_changes: bool = free(False)
    """Resume although settings differ from the checkpoint's (the error names them)."""

    keep_checkpoints: int = free(2)
    """How many of the newest checkpoints to keep; the best one is kept besides."""

    checkpoint_every: int = free(1)
    """Epochs from one checkpoint to the next; the end of the run always has one."""

    checkpoint_every_steps: int | None = free(None)
    """Also save a checkpoint each time that many steps are done."""

    log_every: int = free(50)
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
        at_least = {
            "epochs": 1,
            "batch_size": 1,
            "accumulate": 1,
            "repeated_augmentation": 1,
            "lr_batch_size": 1,
            "num_workers": 0,
            "evaluate_every": 1,
            "keep_checkpoints": 1,
            "checkpoint_every": 1,
            "checkpoint_every_steps": 1,
            "log_every": 1,
            "seed": 0,
        }
        for name, smallest in at_least.items():
            value = getattr(self, name)
            if value is not None and value < smallest:
                raise ValueError(f"{name} must be at least {smallest}, got {value}")
        if not self.lr > 0:
            raise ValueError(f"lr must be above 0, got {self.lr}")
        if self.clip_grad_norm is not None and not self.clip_grad_norm > 0:
            raise ValueError(f"clip_grad_norm must be above 0 or None, got {self.clip_grad_norm}")
        if self.ema_decay is not None and not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay must lie in [0, 1) or be None, got {self.ema_decay}")
        if self.accumulate > self.batch_size:
            raise ValueError(
                f"accumulate={self.accumulate} is more than batch_size={self.batch_size}: each "
                "microbatch needs at least one sample"
            )
