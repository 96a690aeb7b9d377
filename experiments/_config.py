"""What a run is, and the key by which it is known."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

# A frozen teacher starts from other weights than its student: that of seed s has s and this.
TEACHER_SEED = 1000


@dataclass(frozen=True)
class RunConfig:
    """Everything that changes what a run learns.

    >>> plain = RunConfig(task="digits", mode="plain", epochs=10, seed=3)
    >>> plain.training_cycles, RunConfig(task="digits", mode="cycle", epochs=10).inference_cycles
    (1, 2)

    A field that is added later gets the default that does what was done before; a default never
    changes once runs are recorded: both keep the keys of recorded runs.

    Attributes:
        task: The data, see ``experiments/_images.py`` and ``experiments/_people.py``.
        mode: plain (one cycle), cycle (loss on the last cycle alone, used with all of them:
            paper, table 6), distill (used with one cycle) or fold (one cycle, taught by a frozen
            run of mode cycle).
        epochs: Passes over the training set.
        seed: Of the initial weights, the order of samples and the augmentation.
        train_samples: How many training samples are used; None for all.
        width: Channels of a token.
        depth: Blocks.
        head_dim: Channels of an attention head.
        num_cycles: Cycles in training, in the modes cycle and distill.
        task_cycles: Cycles with a task loss, in the mode distill.
        token_weight: As for ``CycleDistillLoss``, as are distance to prediction_weight.
        token_group: The only part of the sequence with a distance: class or patch of images,
            keypoint or visual of people.
        distance: Between tokens.
        teacher: The next cycle or the last.
        detach_teacher: Whether teachers are constants.
        prediction_weight: Of the KL divergence between the cycles' predictions.
        patch_size: Side of a patch, in pixels; None for the task's own. Of images' classes.
        augmented: Whether CIFAR-10's training images are shifted and mirrored.
        mixed: Whether images of a batch and their labels are mixed as DeiT does (Mixup with alpha
            0.8 or CutMix with 1.0). Of images' classes.
        label_smoothing: Of the cross entropy; of images' classes, as are the two below.
        dropout: Rate behind the projections of attention and MLP, and behind the embedding.
        drop_path: Stochastic depth: rate of the last block's branches, less in earlier blocks.
        head: What predicts keypoints: heatmaps or coordinates with RLE.
        min_cycles: With it, each step draws its number of cycles, as for ``CycleWrapper``, as are
            the four below.
        grad_cycles: Cycles that gradients pass through.
        input_injection: Of the stack's input into later cycles.
        cycle_embedding: A learnt vector for each later cycle.
        adapter_rank: Of adapters in later cycles.
        cycles_from: Part of the training, 0 to 1, before which one cycle runs.
        batch_size: Samples of a step.
        lr: Largest learning rate of AdamW; linear warm-up, then half a cosine to 0.
        weight_decay: Of AdamW.
        warmup: Part of the training that is warm-up.
        truth_weight: As for ``FoldLoss``, as is temperature; in mode fold.
        temperature: Of the KL divergence.
        warm: Whether mode fold starts from the teacher's weights.
    """

    task: Literal["digits", "cifar10", "lspet"]
    mode: Literal["plain", "cycle", "distill", "fold"]
    epochs: int
    seed: int = 0
    train_samples: int | None = None
    width: int = 32
    depth: int = 2
    head_dim: int = 16
    num_cycles: int = 2
    task_cycles: Literal["all", "mean", "last"] = "all"
    token_weight: float = 5e-6
    token_group: Literal["class", "patch", "keypoint", "visual"] | None = None
    distance: Literal["mse", "smooth_l1", "cosine"] = "mse"
    teacher: Literal["next", "last"] = "next"
    detach_teacher: bool = True
    prediction_weight: float = 0.0
    patch_size: int | None = None
    augmented: bool = True
    mixed: bool = False
    label_smoothing: float = 0.0
    dropout: float = 0.0
    drop_path: float = 0.0
    head: Literal["heatmap", "regression"] = "heatmap"
    min_cycles: int | None = None
    grad_cycles: int | None = None
    input_injection: float = 0.0
    cycle_embedding: bool = False
    adapter_rank: int = 0
    cycles_from: float = 0.0
    batch_size: int = 100
    lr: float = 2e-3
    weight_decay: float = 0.05
    warmup: float = 0.05
    truth_weight: float = 0.1
    temperature: float = 2.0
    warm: bool = True

    @property
    def training_cycles(self) -> int:
        """Cycles that training runs."""
        return 1 if self.mode in ("plain", "fold") else self.num_cycles

    @property
    def inference_cycles(self) -> int:
        """Cycles that the trained model is meant to be used with."""
        return self.num_cycles if self.mode == "cycle" else 1

    @property
    def metric(self) -> Literal["accuracy", "PCK"]:
        """The task's score, in percent: top-1 accuracy, or PCK@0.1."""
        return "PCK" if self.task == "lspet" else "accuracy"

    @property
    def key(self) -> str:
        """Sixteen hexadecimal digits, a hash of what differs from the defaults."""
        return hash_of(
            {f.name: v for f in fields(self) if (v := getattr(self, f.name)) != f.default}
        )

    @property
    def taught_by(self) -> RunConfig | None:
        """The frozen teacher's run, in mode fold."""
        if self.mode != "fold":
            return None
        grown = replace(self, mode="cycle", seed=self.seed + TEACHER_SEED)
        return replace(grown, truth_weight=0.1, temperature=2.0, warm=True)

    def seeded(self, seed: int) -> RunConfig:
        """The run with another seed."""
        return replace(self, seed=seed)

    def as_dict(self) -> dict[str, Any]:
        """All fields, for the record."""
        return asdict(self)


def hash_of(values: dict[str, Any]) -> str:
    """Sixteen hexadecimal digits that stand for the values."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]
