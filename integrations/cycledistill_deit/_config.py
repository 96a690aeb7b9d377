"""Options of a classification run, and the presets."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from cycledistill.training import CycledConfig, free, within


@dataclass
class ClassificationConfig(CycledConfig):
    """Train a timm model on images in class folders, cycled and distilled into one pass."""

    data_dir: str | Path | None = free(None)
    """Folder with train/CLASS/* and val/CLASS/* images (ImageNet's layout), or a data set that timm
    reads by a prefix: hfds/NAME_OR_FOLDER (Hugging Face data sets), hfids/... (the same as a
    stream), wds/FOLDER_OR_URL (tar shards), torch/NAME (torchvision), tfds/NAME (TensorFlow). None
    takes the 1,797 handwritten digits of scikit-learn."""

    data_root: Path | None = free(None)
    """Folder of the files of torch/ and tfds/, and of the cache of hfds/."""

    train_split: str | None = free(None)
    """Training split if data_dir has a prefix (train). For streams the number of images may follow,
    for tar shards also their names: 'train|50000', 'train-{00..63}.tar|50000'."""

    val_split: str | None = free(None)
    """Validation split, likewise (validation)."""

    input_key: str | None = free(None)
    """Column or file ending of the images if data_dir has a prefix; None takes timm's."""

    target_key: str | None = free(None)
    """Column or file ending of the labels, likewise."""

    num_classes: int | None = free(None)
    """Number of classes, if the data do not name them (tar shards)."""

    model: str = "deit_tiny_patch16_224"
    """Any timm model with a block stack (DeiT-Ti: paper, table 9)."""

    pretrained: bool = False
    """Start from timm's pretrained weights (downloads them)."""

    blocks: str | None = None
    """Path of the block stack, such as blocks.4:12; None finds it."""

    mode: Literal["plain", "cycle", "distill", "grow", "fold", "grow-fold"] = "distill"  # type: ignore[assignment]
    """plain: one cycle. cycle: several cycles, loss on the last, used with all of them (paper,
    table 9, row 2). distill: loss on every cycle, tokens distilled, used with one (paper, table 9,
    row 3). grow: as cycle, to become a teacher. fold: one cycle, taught by the runs in teacher.
    grow-fold: both in turn, in the subfolders grown and folded of output_dir."""

    teacher: tuple[Path, ...] = ()
    """Folders of finished runs: the frozen teachers in mode fold, first one of mode grow."""

    warm_start: bool = True
    """Start from the first teacher's weights in mode fold."""

    truth_weight: float = within(0.3, at_least=0, at_most=1)
    """Weight of the labels in mode fold; the rest is for the teachers (0.3:
    docs/results/lab.md)."""

    temperature: float = within(2.0, above=0)
    """Softening of the teachers' predictions in mode fold."""

    beside: tuple[Path, ...] = free(())
    """Folders of other finished runs for the last table of mode fold, such as one of mode plain."""

    token_weight: float = within(5e-6, at_least=0)
    """Weight of the token distillation in mode distill (5e-6: the paper's pose recipe)."""

    detach_teacher: bool = True
    """Treat the later cycle's tokens as constants, unlike the paper's released code."""

    prediction_weight: float = within(0.0, at_least=0)
    """Weight of the KL divergence between consecutive cycles' predictions (0: not in the paper)."""

    image_size: int | None = within(None, at_least=1)
    """Side of the square input in pixels; None takes the model's own from timm's configuration, as
    for the next five options."""

    mean: tuple[float, ...] | None = None
    """Mean of each channel, or of all, subtracted after scaling to 0..1."""

    std: tuple[float, ...] | None = None
    """Standard deviation of each channel, or of all, to divide by."""

    interpolation: Literal["bicubic", "bilinear", "nearest"] | None = None
    """How images are resized."""

    crop_fraction: float | None = within(None, above=0, at_most=1)
    """Fraction of the image that the crop keeps in evaluation."""

    crop_mode: Literal["center", "squash", "border"] | None = None
    """What evaluation does with images that are not square: crop the centre, squash, or add a
    border."""

    in_chans: int = 3
    """Channels of the input: 3 for colour, 1 for grey."""

    patch_size: int | None = None
    """Side of a patch in pixels; None keeps the model's own, as for the next three options."""

    embed_dim: int | None = None
    """Channels of a token."""

    depth: int | None = None
    """Number of blocks."""

    num_heads: int | None = None
    """Attention heads of a block."""

    drop_path: float = within(0.1, at_least=0, below=1)
    """Stochastic depth: largest probability of dropping a block's branch (0.1: DeiT)."""

    weight_decay: float = within(0.05, at_least=0)
    """Weight decay of AdamW, except for biases, norms and position embeddings (0.05: DeiT)."""

    warmup_epochs: int = within(5, at_least=0)
    """Epochs of linear warm-up (5: DeiT)."""

    warmup_lr: float = within(1e-6, at_least=0)
    """Learning rate at the start of the warm-up (1e-6: DeiT)."""

    min_lr: float = within(1e-5, at_least=0)
    """Learning rate at the end of the cosine (1e-5: DeiT)."""

    auto_augment: str | None = "rand-m9-mstd0.5-inc1"
    """timm's automatic augmentation (RandAugment 9/0.5: DeiT); None for none."""

    color_jitter: float | None = within(0.3, at_least=0)
    """Colour jitter, if there is no automatic augmentation; None for none."""

    flip: float = within(0.5, at_least=0, at_most=1)
    """Probability of a horizontal flip."""

    random_erasing: float = within(0.25, at_least=0, at_most=1)
    """Probability of erasing a rectangle of the input (0.25: DeiT)."""

    crop_padding: int | None = within(None, at_least=0)
    """Pixels of padding before a random crop, for small images. None: random resized crops, as for
    ImageNet."""

    mixup: float = within(0.8, at_least=0)
    """Mixup's alpha, 0 for none (0.8: DeiT)."""

    cutmix: float = within(1.0, at_least=0)
    """CutMix's alpha, 0 for none (1.0: DeiT)."""

    label_smoothing: float = within(0.1, at_least=0, below=1)
    """Label smoothing (0.1: DeiT)."""

    eval_batch_size: int = free(256, at_least=1)
    """Images at a time in evaluations."""

    limit_train: int | None = None
    """Number of training images to use, spread evenly over the list; None uses all."""

    def stages(self) -> tuple[ClassificationConfig, ...]:
        """The runs to train: two in mode grow-fold, otherwise this one."""
        if self.mode != "grow-fold":
            return (self,)
        grown, folded = Path(self.output_dir) / "grown", Path(self.output_dir) / "folded"
        later = self.resume if self.resume == "never" else "auto"  # a path is for the first run
        return (
            replace(self, mode="grow", output_dir=grown),
            replace(self, mode="fold", output_dir=folded, teacher=(grown,), resume=later),
        )

    def validate(self) -> None:
        """Check ranges.

        Raises:
            ValueError: An option is out of its range; the text names it.
        """
        super().validate()
        if self.warmup_epochs and self.warmup_epochs >= self.epochs:
            raise ValueError(
                f"warmup_epochs={self.warmup_epochs} must be fewer than epochs={self.epochs}"
            )
        for name in ("warmup_lr", "min_lr"):
            if getattr(self, name) > self.scaled_lr:
                scaling = f" x batch_size={self.batch_size} / lr_batch_size={self.lr_batch_size}"
                warnings.warn(
                    f"{name}={getattr(self, name)} is above the learning rate of "
                    f"{self.scaled_lr} (lr={self.lr}{scaling if self.lr_batch_size else ''}): give "
                    "a higher lr, or one that is lower here",
                    stacklevel=2,
                )
        if (self.mode == "fold") != bool(self.teacher):
            raise ValueError(
                f"mode=fold and --teacher FOLDER belong together, got mode={self.mode} and "
                f"teacher={[str(folder) for folder in self.teacher]}"
            )
        if self.in_chans not in (1, 3):
            raise ValueError(f"in_chans must be 1 (grey) or 3 (colour), got {self.in_chans}")
        for name in ("mean", "std"):
            values = getattr(self, name)
            if values is not None and len(values) not in (1, self.in_chans):
                raise ValueError(
                    f"{name} must have 1 or in_chans={self.in_chans} values, got {values}"
                )
        if self.std is not None and min(self.std) <= 0:
            raise ValueError(f"std must be above 0, got {self.std}")


# A small transformer on small images, without the augmentation that large ones need.
_SMALL = ClassificationConfig(
    lr=2e-3,
    depth=3,
    drop_path=0.0,
    auto_augment=None,
    color_jitter=None,
    random_erasing=0.0,
    crop_fraction=1.0,
    mixup=0.0,
    cutmix=0.0,
)

PRESETS = {
    "paper": ClassificationConfig(
        output_dir=Path("runs/imagenet"),
        epochs=300,
        batch_size=1024,
        lr=5e-4,
        lr_batch_size=512,
        ema_decay=0.99996,
        repeated_augmentation=3,
        crop_fraction=0.875,  # DeiT's; timm's configuration of its models says 0.9
        mixed_precision="bf16",
        num_workers=8,
    ),
    "cifar10": ClassificationConfig(
        output_dir=Path("runs/cifar10"),
        epochs=100,
        batch_size=512,
        lr=1e-3,
        image_size=32,
        patch_size=4,
        crop_padding=4,
        crop_fraction=1.0,
        mixed_precision="bf16",
    ),
    # One block on 5,000 images, where growing and folding is measured: docs/results/lab.md.
    "cifar10-cpu": replace(
        _SMALL,
        output_dir=Path("runs/cifar10-cpu"),
        mode="grow-fold",
        limit_train=5000,
        epochs=100,
        batch_size=125,
        image_size=32,
        patch_size=8,
        embed_dim=64,
        depth=1,
        num_heads=4,
        crop_padding=4,
        label_smoothing=0.0,
        evaluate_every=10,
        checkpoint_every=10,
        num_workers=1,
    ),
    "digits": replace(
        _SMALL,
        output_dir=Path("runs/digits"),
        epochs=80,
        batch_size=64,
        image_size=8,
        in_chans=1,
        patch_size=2,
        embed_dim=48,
        num_heads=3,
        warmup_epochs=2,
        flip=0.0,
        crop_padding=1,
        num_workers=0,
        checkpoint_every=5,
    ),
}
