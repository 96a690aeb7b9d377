"""Classification: scikit-learn's digits and CIFAR-10, learnt by a ViT of timm."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import timm
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from cycledistill import CycleWrapper
from cycledistill_deit import PRESETS, MixupTargets
from experiments._config import RunConfig
from experiments._task import Batch, SplitName, data_folder, every_tenth, first_samples


class Split(NamedTuple):
    """Images `[N, C, H, W]` uint8 and labels `[N]` int64."""

    images: Tensor
    labels: Tensor

    def take(self, indices: Any) -> Split:
        """The samples at ``indices`` `[M]`."""
        return Split(self.images[indices], self.labels[indices])


class Images:
    """Images and their classes.

    Args:
        train: Training set.
        val: Validation set.
        test: Test set.
        patch_size: Side of a patch, in pixels.
        padding: Pixels of padding for random crops in training; with them, random mirroring.
            0 for no augmentation.
        mixed: Whether training images and their labels are mixed, as DeiT does.
    """

    token_groups = None
    prediction_distance = "kl"
    parts: Mapping[str, slice] = {"class": slice(0, 1), "patch": slice(1, None)}

    def __init__(
        self,
        train: Split,
        val: Split,
        test: Split,
        patch_size: int,
        padding: int,
        mixed: bool = False,
    ) -> None:
        self.patch_size = patch_size
        self.padding = padding
        self.num_classes = int(train.labels.max()) + 1
        self.num_samples = len(train.labels)
        deit = replace(PRESETS["cifar10"], label_smoothing=0.0)  # the loss smooths
        self._mix = MixupTargets(deit, self.num_classes) if mixed else None
        statistics = torch.std_mean(train.images.float(), dim=(0, 2, 3), keepdim=True)
        self._deviation, self._mean = statistics
        self._splits = {
            name: split._replace(images=self.normalized(split.images))
            for name, split in (("train", train), ("val", val), ("test", test))
        }
        self.example = self._splits["val"].images[:1]

    def normalized(self, images: Tensor) -> Tensor:
        """Images `[B, C, H, W]` as float, with the training set's channel means and deviations."""
        return (images.float() - self._mean) / self._deviation

    def model(self, config: RunConfig) -> nn.Module:
        """A ViT of the config's width and depth."""
        return timm.create_model(
            "vit_tiny_patch16_224",
            img_size=self.example.shape[-1],
            patch_size=self.patch_size,
            in_chans=self.example.shape[1],
            embed_dim=config.width,
            depth=config.depth,
            num_heads=config.width // config.head_dim,
            num_classes=self.num_classes,
            pos_drop_rate=config.dropout,
            proj_drop_rate=config.dropout,
            drop_path_rate=config.drop_path,
        )

    def loss(self, config: RunConfig) -> nn.Module:
        """Cross entropy."""
        return nn.CrossEntropyLoss(label_smoothing=config.label_smoothing)

    def teaching(self, loss: nn.Module) -> str:
        """The divergence from the teacher's classes."""
        return "kl"

    def batch(self, indices: Tensor) -> Batch:
        """Augmented images, and their labels or the classes' probabilities."""
        images, labels = self._on("train", indices.device).take(indices)
        images = augment(images, self.padding)
        if self._mix is not None:
            images, labels = self._mix(images, labels)
        return Batch(images, (labels,))

    @torch.no_grad()
    def scores(self, model: CycleWrapper, split: SplitName, cycles: int) -> list[float]:
        """Top-1 accuracy."""
        images, labels = self._on(split, next(model.parameters()).device)
        right = torch.zeros(cycles)
        for batch, truth in zip(images.split(500), labels.split(500), strict=True):
            found = model.forward_cycles(batch, num_cycles=cycles).predictions
            right += torch.tensor([float((logits.argmax(1) == truth).sum()) for logits in found])
        return (100 * right / len(labels)).tolist()

    def _on(self, name: SplitName, device: torch.device) -> Split:
        split = self._splits[name]
        if split.labels.device != device:
            self._splits[name] = split = Split(split.images.to(device), split.labels.to(device))
        return split


def load_images(config: RunConfig) -> Images:
    """Digits or CIFAR-10.

    Raises:
        FileNotFoundError: CIFAR-10's folder is missing.
        ValueError: There are fewer training samples than the run wants.
    """
    if config.task == "digits":
        train, val, test = _digits()
        patch_size, padding = 2, 0
    else:
        train, val, test = read_cifar10(data_folder("cifar10"))
        patch_size, padding = 4, 4
    train = train.take(first_samples(config, len(train.labels)))
    padding *= config.augmented
    return Images(train, val, test, config.patch_size or patch_size, padding, config.mixed)


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


def _digits() -> tuple[Split, Split, Split]:
    """1,797 digits of 8x8 from scikit-learn: 500 to train, 400 to choose, 897 to report."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = torch.from_numpy(digits.images.astype(np.uint8)).unsqueeze(1)
    everything = Split(images, torch.from_numpy(digits.target.astype(np.int64)))
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    train, val, test = (everything.take(part) for part in order.split([500, 400, 897]))
    return train, val, test


@functools.cache
def read_cifar10(folder: Path) -> tuple[Split, Split, Split]:
    """CIFAR-10: every tenth image of train/ to choose, val/ to report, the others to train."""
    given = read_folder(folder / "train")
    to_train, to_choose = every_tenth(len(given.labels))
    return given.take(to_train), given.take(to_choose), read_folder(folder / "val")


def read_folder(folder: Path) -> Split:
    """Images of a folder with CLASS/*, all of one size; classes are numbered by name.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: There are no images, or two are of different sizes.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}; expected CLASS/*.jpg in it")
    classes = [path for path in _shown(folder) if path.is_dir()]
    files = [(path, label) for label, name in enumerate(classes) for path in _shown(name)]
    if not files:
        raise ValueError(f"{folder} has no images in folders; expected CLASS/*.jpg in it")
    pictures = [np.asarray(Image.open(path).convert("RGB")) for path, _ in files]
    for (path, _), picture in zip(files, pictures, strict=True):
        if picture.shape != pictures[0].shape:
            raise ValueError(
                f"{path}: expected an image of {_size(pictures[0])} as {files[0][0]}, got "
                f"{_size(picture)}"
            )
    pixels = np.stack(pictures)
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
    return Split(images, torch.tensor([label for _, label in files]))


def _shown(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _size(picture: npt.NDArray[np.uint8]) -> str:
    return f"{picture.shape[1]}x{picture.shape[0]} px"
