"""Targets as class probabilities, with Mixup and CutMix where asked for."""

from __future__ import annotations

import torch.nn.functional as F
from timm.data import Mixup
from torch import Tensor, nn

from cycledistill_deit._config import ClassificationConfig


class MixupTargets:
    """Turn a batch of images and labels into (mixed) images and class probabilities.

    timm's Mixup (arXiv 1710.09412) and CutMix (arXiv 1905.04899), one of them for each batch, with
    label smoothing; without either, smoothed one-hot targets.

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
        if self.mixup is not None and len(images) % 2 == 0:
            mixed, probabilities = self.mixup(images, labels)
            return mixed, probabilities
        one_hot = F.one_hot(labels, self.num_classes).to(images.dtype)
        return images, one_hot * (1 - self.smoothing) + self.smoothing / self.num_classes


class SoftCrossEntropy(nn.Module):
    """Mean cross entropy of logits `[B, K]` with class probabilities `[B, K]`, in float32."""

    def forward(self, logits: Tensor, probabilities: Tensor) -> Tensor:
        """The loss, a scalar."""
        return F.cross_entropy(logits.float(), probabilities.float())
