"""The tasks: images in memory, with validation and test sets apart."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from experiments._config import RunConfig


class Split(NamedTuple):
    """Images `[N, C, H, W]` uint8 and labels `[N]` int64."""

    images: Tensor
    labels: Tensor

    def take(self, indices: Tensor) -> Split:
        """The samples at ``indices`` `[M]`."""
        return Split(self.images[indices], self.labels[indices])

    def to(self, device: torch.device) -> Split:
        """The same on another device."""
        return Split(self.images.to(device), self.labels.to(device))


class Task(NamedTuple):
    """What to learn from, to choose on and to report on.

    Attributes:
        train: Training set.
        val: Validation set: length of training, learning rates and variants are chosen on it.
        test: Test set: reported, never chosen on.
        patch_size: Side of a patch, in pixels.
        padding: Pixels of padding for random crops in training; with them, random mirroring.
            0 for no augmentation.
    """

    train: Split
    val: Split
    test: Split
    patch_size: int
    padding: int

    def normalized(self, images: Tensor) -> Tensor:
        """Images `[B, C, H, W]` as float, with the training set's channel means and deviations."""
        pixels = self.train.images.float()
        deviation, mean = torch.std_mean(pixels, dim=(0, 2, 3), keepdim=True)
        return (images.float() - mean.to(images.device)) / deviation.to(images.device)


def load_task(config: RunConfig) -> Task:
    """The task of a run; splits are the same for every seed.

    Raises:
        FileNotFoundError: CIFAR-10's folder is missing.
        ValueError: There are fewer training samples than the run wants.
    """
    task = _digits() if config.task == "digits" else _cifar10()
    if config.patch_size is not None:
        task = task._replace(patch_size=config.patch_size)
    wanted, found = config.train_samples, len(task.train.labels)
    if wanted is None:
        return task
    if not 1 <= wanted <= found:
        raise ValueError(f"train_samples={wanted} is not within 1 and {task_words(config, found)}")
    return task._replace(train=task.train.take(torch.arange(wanted)))


def task_words(config: RunConfig, found: int) -> str:
    """Size of a training set in words."""
    return f"the {found:,} training samples of {config.task}"


def augment(images: Tensor, padding: int) -> Tensor:
    """Each image of `[B, C, H, W]` shifted by up to ``padding`` pixels, half of them mirrored.

    Random numbers come from the CPU's generator, so they are the same on every device.
    """
    if not padding:
        return images
    batch, channels, height, width = images.shape
    device = images.device
    top, left = torch.randint(0, 2 * padding + 1, (2, batch)).to(device)
    mirrored = (torch.rand(batch) < 0.5).to(device)
    rows = top[:, None] + torch.arange(height, device=device)
    columns = left[:, None] + torch.arange(width, device=device)
    columns = torch.where(mirrored[:, None], columns.flip(1), columns)
    padded = functional.pad(images, (padding,) * 4)
    sample = torch.arange(batch, device=device)[:, None, None, None]
    channel = torch.arange(channels, device=device)[None, :, None, None]
    return padded[sample, channel, rows[:, None, :, None], columns[:, None, None, :]]


def _digits() -> Task:
    """1,797 digits of 8x8 from scikit-learn: 500 to train, 400 to choose, 897 to report."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = torch.from_numpy(digits.images.astype(np.uint8)).unsqueeze(1)
    everything = Split(images, torch.from_numpy(digits.target.astype(np.int64)))
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    train, val, test = order.split([500, 400, 897])
    return Task(
        everything.take(train), everything.take(val), everything.take(test), patch_size=2, padding=0
    )


def _cifar10() -> Task:
    """CIFAR-10: every tenth image of train/ to choose, val/ to report, the others to train."""
    root = os.environ.get("CYCLEDISTILL_DATA")
    if not root:
        raise FileNotFoundError("set CYCLEDISTILL_DATA to the folder that has cifar10/")
    given = _read_folder(Path(root) / "cifar10" / "train")
    test = _read_folder(Path(root) / "cifar10" / "val")
    order = torch.randperm(len(given.labels), generator=torch.Generator().manual_seed(0))
    chosen = torch.arange(len(order)) % 10 == 0
    return Task(given.take(order[~chosen]), given.take(order[chosen]), test, 4, padding=4)


def _read_folder(folder: Path) -> Split:
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}; expected CLASS/*.jpg in it")
    classes = sorted(path for path in folder.iterdir() if path.is_dir())
    files = [(path, label) for label, name in enumerate(classes) for path in sorted(name.iterdir())]
    pixels = np.stack([np.asarray(Image.open(path).convert("RGB")) for path, _ in files])
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
    return Split(images, torch.tensor([label for _, label in files]))
