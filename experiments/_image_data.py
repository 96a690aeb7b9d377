"""Images in memory, and their augmented batches for several seeds at once."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

PADDING = 4
PLACES = 2 * (2 * PADDING + 1) ** 2  # shifted images, mirrored or not


def cached(folder: Path, cache: Path, read: Callable[[Path], Any]) -> Any:
    """What ``read`` finds in a folder of data: tuples of tensors, kept in a file.

    Args:
        folder: Of the data; its name is the file's.
        cache: Where the file stands.
        read: Decodes the images.
    """
    folder = folder.resolve()
    file = cache / f"{folder.name}-{hashlib.sha256(str(folder).encode()).hexdigest()[:8]}.pt"
    if not file.exists():
        cache.mkdir(parents=True, exist_ok=True)
        temporary = file.with_suffix(f".{os.getpid()}")
        torch.save(read(folder), temporary)
        os.replace(temporary, file)
    return torch.load(file)


class Drawn(NamedTuple):
    """Augmented images of S seeds.

    Attributes:
        images: Mirrored, then shifted, and normalized, `[S, B, 3, H, W]`.
        mirrored: 1 where an image is mirrored, `[S, B]`.
        right: How far an image is shifted to the right, in pixels, `[S, B]`.
        down: Likewise.
    """

    images: Tensor
    mirrored: Tensor
    right: Tensor
    down: Tensor


class SeededImages:
    """Training images and the random numbers of each seed.

    Args:
        images: `[N, 3, H, W]` uint8, square.
        seeds: One for each network that is trained.
        device: Where batches are made; the random numbers are the CPU's everywhere.
        counted: The images whose colours are counted.

    Attributes:
        mean: Of the counted images' channels, in grey levels, `[1, 3, 1, 1]`.
        deviation: Likewise.
        device: Where batches are made.
    """

    def __init__(
        self,
        images: Tensor,
        seeds: list[int],
        device: str = "cpu",
        counted: slice = slice(None),
    ) -> None:
        images = images.to(device)
        self.device = images.device
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        colours = images[counted].float()
        deviation, mean = torch.std_mean(colours, dim=(0, 2, 3), keepdim=True)
        self.mean, self.deviation = mean, deviation
        self._count, channels, self._side, _ = images.shape
        shape = (self._count, channels, *(2 * [self._side + 2 * PADDING]))
        padded = mean.round().to(torch.uint8).expand(shape).clone()
        inside = slice(PADDING, PADDING + self._side)
        padded[:, :, inside, inside] = images
        both = torch.stack([padded, padded.flip(3)])
        # [mirrored, N, top, left, C, H, W]: every shifted image, as a view.
        self._windows = both.unfold(3, self._side, 1).unfold(4, self._side, 1)
        self._windows = self._windows.permute(0, 1, 3, 4, 2, 5, 6)

    def __len__(self) -> int:
        return self._count

    def normalized(self, images: Tensor) -> Tensor:
        """Images `[..., 3, H, W]` as float, with the counted images' means and deviations."""
        return images.float().sub_(self.mean).div_(self.deviation)

    def orders(self) -> Tensor:
        """A new order of the training images for each seed, `[S, N]`."""
        return torch.stack([torch.randperm(self._count, generator=own) for own in self.generators])

    def batch(self, indices: Tensor, places: Tensor | None = None) -> Drawn:
        """Shifted and mirrored images at ``indices`` `[S, B]`.

        ``places`` `[S, N]` says how each of all images is shifted and mirrored: a number below
        `PLACES`. Without it that is drawn.
        """
        if places is None:
            shape = (indices.shape[1],)
            drawn = torch.stack(
                [torch.randint(PLACES, shape, generator=own) for own in self.generators]
            )
        else:
            drawn = places.gather(1, indices)
        drawn, indices = drawn.to(self.device), indices.to(self.device)
        mirrored, place = drawn % 2, drawn // 2
        top, left = place // (2 * PADDING + 1), place % (2 * PADDING + 1)
        images = self.normalized(self._windows[mirrored, indices, top, left])
        return Drawn(images, mirrored, PADDING - left, PADDING - top)

    def shares(self) -> Tensor:
        """A share of each seed's batch that stays when images are mixed, 0 to 1, `[S]`."""
        drawn = [torch.rand((), generator=own) for own in self.generators]
        return torch.stack(drawn).to(self.device)
