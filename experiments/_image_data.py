"""CIFAR-10 in memory, and its augmented batches for several seeds at once."""

from __future__ import annotations

import functools
import hashlib
import os
from pathlib import Path

import torch
from torch import Tensor

from experiments._images import Split, read_cifar10
from experiments._task import data_folder

_PADDING = 4


@functools.cache
def cifar10(cache: Path) -> tuple[Split, Split, Split]:
    """Images to train, to choose and to report, as the other studies split them.

    Args:
        cache: Folder that keeps the decoded images, 170 MB.
    """
    folder = data_folder("cifar10").resolve()
    file = cache / f"cifar10-{hashlib.sha256(str(folder).encode()).hexdigest()[:8]}.pt"
    if not file.exists():
        cache.mkdir(parents=True, exist_ok=True)
        temporary = file.with_suffix(f".{os.getpid()}")
        torch.save([tuple(split) for split in read_cifar10(folder)], temporary)
        os.replace(temporary, file)
    train, val, test = (Split(*split) for split in torch.load(file))
    return train, val, test


class SeededImages:
    """Training images and the random numbers of each seed.

    Args:
        train: Images `[N, 3, H, W]` uint8 and labels, -1 for images without one.
        seeds: One for each network that is trained.
        device: Where batches are made; the random numbers are the CPU's everywhere.

    Attributes:
        mean: Of the labelled training images' channels, in grey levels, `[1, 3, 1, 1]`.
        deviation: Likewise.
    """

    def __init__(self, train: Split, seeds: list[int], device: str = "cpu") -> None:
        train = Split(train.images.to(device), train.labels.to(device))
        self.labels = train.labels
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        labelled = train.images[train.labels >= 0].float()
        deviation, mean = torch.std_mean(labelled, dim=(0, 2, 3), keepdim=True)
        self.mean, self.deviation = mean, deviation
        count, channels, self._side, _ = train.images.shape
        padded = mean.round().to(torch.uint8).expand(count, channels, *(2 * [self._side + 8]))
        padded = padded.clone()
        inside = slice(_PADDING, _PADDING + self._side)
        padded[:, :, inside, inside] = train.images
        both = torch.stack([padded, padded.flip(3)])
        # [mirrored, N, top, left, C, H, W]: every shifted image, as a view.
        self._windows = both.unfold(3, self._side, 1).unfold(4, self._side, 1)
        self._windows = self._windows.permute(0, 1, 3, 4, 2, 5, 6)

    def normalized(self, images: Tensor) -> Tensor:
        """Images `[..., 3, H, W]` as float, with the training set's means and deviations."""
        return images.float().sub_(self.mean).div_(self.deviation)

    def orders(self) -> Tensor:
        """A new order of the training images for each seed, `[S, N]`."""
        count = len(self.labels)
        return torch.stack([torch.randperm(count, generator=own) for own in self.generators])

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Shifted and mirrored images `[S, B, 3, H, W]` at ``indices`` `[S, B]`, and labels."""
        batch = indices.shape[1]
        places, device = 2 * (2 * _PADDING + 1) ** 2, self.labels.device
        drawn = torch.stack(
            [torch.randint(places, (batch,), generator=own) for own in self.generators]
        )
        drawn, indices = drawn.to(device), indices.to(device)
        mirrored, place = drawn % 2, drawn // 2
        rows, columns = place // (2 * _PADDING + 1), place % (2 * _PADDING + 1)
        images = self._windows[mirrored, indices, rows, columns]
        return self.normalized(images), self.labels[indices]

    def shares(self) -> Tensor:
        """A share of each seed's batch that stays when images are mixed, 0 to 1, `[S]`."""
        drawn = [torch.rand((), generator=own) for own in self.generators]
        return torch.stack(drawn).to(self.labels.device)
