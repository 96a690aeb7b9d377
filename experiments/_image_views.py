"""Views of the training images that come again, and what the teachers said of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from experiments._image_data import PLACES


class Views:
    """Each image's shifted and mirrored views, another in each epoch, until the first comes again.

    What frozen teachers say of a view does not change, so they are asked once.

    Args:
        count: Views of an image.
        seeds: One for each network that is trained; their images have different views.
        images: How many there are.
        begin: The first epoch of this process, which knows nothing of what was said before.
    """

    def __init__(self, count: int, seeds: Sequence[int], images: int, begin: int) -> None:
        self._count, self._seeds, self._images, self._begin = count, seeds, images, begin
        self._told: dict[int, list[Tensor]] = {}

    def places(self, epoch: int) -> Tensor:
        """Which view each image shows in an epoch, `[S, N]`, as `SeededImages.batch` takes it."""
        drawn = []
        for seed in self._seeds:
            own = torch.Generator().manual_seed(seed * self._count + epoch % self._count)
            drawn.append(torch.randint(PLACES, (self._images,), generator=own))
        return torch.stack(drawn)

    def told(
        self, epoch: int, indices: Tensor, ask: Callable[[], Sequence[Tensor]]
    ) -> list[Tensor]:
        """The teachers' outputs, each `[S, B, ...]`, for the images at ``indices`` `[S, B]`.

        Args:
            epoch: Of the view.
            indices: Of the images; all of them in the course of an epoch.
            ask: Returns the outputs.
        """
        view, place = epoch % self._count, (torch.arange(len(indices))[:, None], indices)
        if epoch - self._count >= self._begin:
            return [kept[place] for kept in self._told[view]]
        outputs = list(ask())
        if view not in self._told:
            shape = len(indices), self._images
            self._told[view] = [one.new_empty(*shape, *one.shape[2:]) for one in outputs]
        for kept, one in zip(self._told[view], outputs, strict=True):
            kept[place] = one
        return outputs
