"""The loss of each mode, and its targets: class probabilities, with Mixup and CutMix."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from timm.data import Mixup
from torch import Tensor, nn

from cycledistill import CycleDistillLoss, FoldLoss
from cycledistill_deit._config import ClassificationConfig


class MixupTargets:
    """Turn a batch of images and labels into (mixed) images and class probabilities.

    Each batch has either timm's Mixup (arXiv 1710.09412) or CutMix (arXiv 1905.04899), with label
    smoothing; without both, targets are smoothed one-hot vectors. timm mixes pairs: of an odd
    number of images, the last stays as it is.

    >>> import torch
    >>> from cycledistill_deit import PRESETS
    >>> targets = MixupTargets(PRESETS["digits"], num_classes=2)
    >>> images, probabilities = targets(torch.zeros(2, 1, 8, 8), torch.tensor([0, 1]))
    >>> [[round(value, 3) for value in row] for row in probabilities.tolist()]
    [[0.95, 0.05], [0.05, 0.95]]
    """

    def __init__(self, config: ClassificationConfig, num_classes: int) -> None:
        self.num_classes = num_classes
        self.smoothing = config.label_smoothing
        self.mixup = None
        if config.mixup or config.cutmix:
            self.mixup = Mixup(
                mixup_alpha=config.mixup,
                cutmix_alpha=config.cutmix,
                label_smoothing=config.label_smoothing,
                num_classes=num_classes,
            )

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Images `[B, C, S, S]` and labels `[B]` to images and probabilities `[B, K]`."""
        one_hot = F.one_hot(labels, self.num_classes).to(images.dtype)
        targets = one_hot * (1 - self.smoothing) + self.smoothing / self.num_classes
        even = len(images) // 2 * 2
        if self.mixup is not None and even:
            images[:even], targets[:even] = self.mixup(images[:even], labels[:even])
        return images, targets


def build_criterion(
    config: ClassificationConfig, teachers: Sequence[nn.Module] = ()
) -> CycleDistillLoss | FoldLoss:
    """Cross entropy on every cycle with token distillation, or on the last cycle alone.

    In mode fold, cross entropy and the divergence from the frozen ``teachers``. The targets are
    class probabilities `[B, K]` (see `MixupTargets`).
    """
    task = nn.CrossEntropyLoss()  # takes probabilities, too
    if config.mode == "fold":
        return FoldLoss(task, teachers, config.truth_weight, temperature=config.temperature)
    if config.mode != "distill":
        return CycleDistillLoss(task, token_weight=0.0, task_cycles="last")
    return CycleDistillLoss(
        task,
        token_weight=config.token_weight,
        detach_teacher=config.detach_teacher,
        task_cycles=config.task_cycles,
        prediction_weight=config.prediction_weight,
    )
