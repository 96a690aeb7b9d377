"""What a run of the quick loop is: a ViT on images, with or without frozen teachers."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

from experiments._config import TEACHER_SEED, hash_of


@dataclass(frozen=True)
class ImageRun:
    """Everything that changes what a run learns; the sibling of ``RunConfig`` for many small runs.

    >>> plain = ImageRun(epochs=10)
    >>> grown = ImageRun(epochs=10, cycles=2, used=2)
    >>> folded = ImageRun(epochs=10, teachers=(grown,), warm=True).seeded(3)
    >>> folded.seed, folded.teachers[0].seed, folded.inference_cycles
    (3, 1003, 1)

    A field that is added later gets the default that does what was done before.

    Attributes:
        epochs: Passes over the training set.
        seed: Of the initial weights, the order of samples, the augmentation and dropout.
        train_samples: How many training images are used; None for all.
        width: Channels of a token.
        depth: Blocks.
        head_dim: Channels of an attention head.
        patch_size: Side of a patch, in pixels.
        cycles: Cycles of training.
        used: Cycles in use.
        every_cycle: Whether every cycle has the task loss (their mean), or only the last.
        prediction_weight: Of the KL divergence from each cycle's prediction to the next one's,
            which is a constant: the joint recipe. With ``every_cycle``.
        teachers: Frozen networks; each is a run of its own. Their probabilities are averaged, but
            with ``every_cycle`` teacher k teaches cycle k, or a single one all cycles.
        warm: Whether training starts from the first teacher's weights.
        temperature: Of the divergence from the teachers' predictions, T.
        truth_weight: Of the cross entropy; the divergence times T² has the rest of 1.
        token_weight: Of the mean squares between the class tokens of student and first teacher,
            both after a norm without parameters.
        own_norms: Whether the norms of later cycles have parameters of their own, kept in use.
        adapter_rank: Of low-rank additions to the linear layers in later cycles, kept in use.
        mixup: Whether each batch's images are mixed with those of the same batch in another order,
            with one uniformly drawn share for each step and seed (Mixup with alpha 1). Teachers
            see the same mixed images; with ``views`` their predictions are mixed, as labels are.
        views: How many shifted and mirrored views there are of each image; None for a new one in
            every epoch. Teachers are asked about each view once.
        unlabelled: Whether the teachers also teach on the training images beyond
            ``train_samples``, which then count in an epoch; their labels are not used.
        label_smoothing: Of the cross entropy.
        dropout: Rate behind the projections of attention and MLP, and behind the embedding.
        batch_size: Samples of a step; what is left over in an epoch is left out.
        lr: Largest learning rate of AdamW; linear warm-up, then half a cosine to 0.
        weight_decay: Of AdamW.
        warmup: Part of the training that is warm-up.
        precision: Of products in training; bfloat16 is torch's autocast. Scores are always those
            of float32.
        task: Classes of CIFAR-10's images, or LSPET's keypoints as heatmaps or as coordinates.
    """

    epochs: int
    seed: int = 0
    train_samples: int | None = None
    width: int = 64
    depth: int = 1
    head_dim: int = 16
    patch_size: int = 8
    cycles: int = 1
    used: int = 1
    every_cycle: bool = False
    prediction_weight: float = 0.0
    teachers: tuple[ImageRun, ...] = ()
    warm: bool = False
    temperature: float = 2.0
    truth_weight: float = 0.1
    token_weight: float = 0.0
    own_norms: bool = False
    adapter_rank: int = 0
    mixup: bool = False
    views: int | None = None
    unlabelled: bool = False
    label_smoothing: float = 0.0
    dropout: float = 0.0
    batch_size: int = 125
    lr: float = 2e-3
    weight_decay: float = 0.05
    warmup: float = 0.05
    precision: Literal["float32", "bfloat16"] = "float32"
    task: Literal["cifar10", "lspet", "lspet-coordinates"] = "cifar10"

    def __post_init__(self) -> None:
        if self.warm and not self.teachers:
            raise ValueError("warm=True starts from the first teacher's weights, got no teachers")
        if self.unlabelled and not (self.teachers and self.train_samples):
            raise ValueError("unlabelled=True needs teachers and train_samples")
        if self.views and (self.token_weight or not self.teachers):
            raise ValueError("views are for teachers whose predictions alone are learnt")
        if self.of_people and (self.unlabelled or self.label_smoothing):
            raise ValueError(
                f"unlabelled and label_smoothing are for classes, not for task={self.task!r}"
            )
        if self.prediction_weight and (self.teachers or not self.every_cycle):
            raise ValueError("prediction_weight is for every_cycle=True without teachers")
        if self.every_cycle and len(self.teachers) not in (0, 1, self.cycles):
            raise ValueError(
                f"expected no teacher, one or one for each of {self.cycles} cycles, got "
                f"{len(self.teachers)}"
            )

    @property
    def training_cycles(self) -> int:
        """Cycles that training runs."""
        return self.cycles

    @property
    def inference_cycles(self) -> int:
        """Cycles that the trained model is meant to be used with."""
        return self.used

    @property
    def of_people(self) -> bool:
        """Whether the images are people with keypoints."""
        return self.task != "cifar10"

    @property
    def metric(self) -> Literal["accuracy", "PCK"]:
        """The task's score, in percent: top-1 accuracy, or PCK@0.1."""
        return "PCK" if self.of_people else "accuracy"

    @property
    def key(self) -> str:
        """Sixteen hexadecimal digits, a hash of what differs from the defaults."""
        return hash_of({"engine": "images", **self._changed()})

    def _changed(self) -> dict[str, Any]:
        own = {f.name: getattr(self, f.name) for f in fields(self)}
        own["teachers"] = tuple(teacher._changed() for teacher in self.teachers)
        return {f.name: own[f.name] for f in fields(self) if own[f.name] != f.default}

    def words(self) -> str:
        """What differs from the defaults."""
        own = [f"{name} {value}" for name, value in self._changed().items() if name != "teachers"]
        return ", ".join(own + [f"taught by ({teacher.words()})" for teacher in self.teachers])

    def as_dict(self) -> dict[str, Any]:
        """All fields, for the record; of teachers the keys, as they have records of their own."""
        return {**asdict(self), "teachers": [teacher.key for teacher in self.teachers]}

    def seeded(self, seed: int) -> ImageRun:
        """The run with another seed.

        Its teachers start from other weights than it does: they have the seed and 1000, the second
        of two equal ones the seed and 2000. So runs that differ in the student alone share them.
        """
        alike = [replace(teacher, seed=0) for teacher in self.teachers]
        taught = tuple(
            teacher.seeded(seed + TEACHER_SEED * (1 + alike[:place].count(alike[place])))
            for place, teacher in enumerate(self.teachers)
        )
        return replace(self, seed=seed, teachers=taught)
