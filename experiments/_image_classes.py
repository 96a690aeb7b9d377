"""Classes of CIFAR-10's images, for several seeds at once."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from experiments._image_data import SeededImages, cached
from experiments._image_goal import Goal
from experiments._image_run import ImageRun
from experiments._images import Split, read_cifar10
from experiments._task import data_folder, first_samples

UNLABELLED = -1


@functools.cache
def cifar10(cache: Path) -> tuple[Split, Split, Split]:
    """Images to train, to choose and to report, as the other studies split them.

    Args:
        cache: Folder that keeps the decoded images, 170 MB.
    """

    def read(folder: Path) -> list[tuple[Tensor, ...]]:
        return [tuple(split) for split in read_cifar10(folder)]

    train, val, test = (Split(*split) for split in cached(data_folder("cifar10"), cache, read))
    return train, val, test


class Classes(Goal):
    """Cross entropy, the KL divergence from teachers, and top-1 accuracy."""

    has_classes = True

    def __init__(self, config: ImageRun, seeds: list[int], work: Path, device: str) -> None:
        train, self.val, self.test = cifar10(work)
        self.available = len(train.labels)
        labelled = first_samples(config, self.available)
        labels = train.labels.clone()
        if config.unlabelled:
            labels[labelled.stop :] = UNLABELLED
        else:
            train, labels = train.take(labelled), labels[labelled]
        self._labels = labels.to(device)
        self.images = SeededImages(train.images, seeds, device, labelled)

    def batch(self, indices: Tensor, places: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Augmented images `[S, B, 3, H, W]` and labels `[S, B]`, -1 for none."""
        images = self.images.batch(indices, places).images
        return images, self._labels[indices.to(self._labels.device)]

    @staticmethod
    def truth_loss(logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
        """Mean over each seed's labelled images, `[S]`."""
        losses = functional.cross_entropy(
            logits.flatten(0, 1),
            labels.flatten(),
            ignore_index=UNLABELLED,
            label_smoothing=smoothing,
            reduction="none",
        )
        return losses.view(labels.shape).sum(1) / (labels != UNLABELLED).sum(1)

    @staticmethod
    def teaching_loss(logits: Tensor, taught: Sequence[Tensor], temperature: float) -> Tensor:
        """T² times the KL divergence from the teachers' mean probabilities, `[S]`."""
        own = (logits / temperature).log_softmax(-1)
        target = _log_mean([one / temperature for one in taught])
        divergence = functional.kl_div(own, target, log_target=True, reduction="none")
        return temperature**2 * divergence.sum(-1).mean(1)

    @staticmethod
    def together(taught: Sequence[Tensor]) -> Tensor:
        """What teachers predict together."""
        return _log_mean(taught)

    @staticmethod
    def score(logits: Tensor, split: Split) -> Tensor:
        """Accuracy in percent, `[S]`, of logits `[S, N, classes]`."""
        return 100 * (logits.argmax(-1) == split.labels).double().mean(-1)


def _log_mean(logits: Sequence[Tensor]) -> Tensor:
    """Logarithms of the mean of the predicted probabilities."""
    logarithms = torch.stack([one.log_softmax(-1) for one in logits])
    return logarithms.logsumexp(0) - math.log(len(logits))
