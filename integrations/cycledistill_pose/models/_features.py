"""The choice of a backbone's feature map."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from cycledistill._mode import eval_mode


def probe_features(backbone: nn.Module, input_size: tuple[int, int]) -> Any:
    """Run a backbone once on a black image `(width, height)`, in evaluation mode."""
    width, height = input_size
    image = torch.zeros(1, 3, height, width)
    if (first := next(backbone.parameters(), None)) is not None:
        image = image.to(first)
    with eval_mode(backbone), torch.no_grad():
        return backbone(image)


def choose_map(
    features: Any, wanted_size: tuple[int, int], index: int | str | None = None
) -> int | str | None:
    """Which of a backbone's outputs to use: `None` (it is one tensor), or an index or key.

    That is the user's `index`, or else the only map of `wanted_size` (width, height).
    """
    maps = dict(features) if isinstance(features, Mapping) else None
    if isinstance(features, Tensor):
        maps = {None: features}
        index = None if index == 0 else index
    elif isinstance(features, list | tuple):
        maps = dict(enumerate(features))
        if isinstance(index, int) and -len(maps) <= index < 0:
            index += len(maps)
    if maps is None:
        raise ValueError(
            "backbone: expected it to return a tensor, or a list, tuple or mapping of them, "
            f"got {type(features).__name__}"
        )
    shapes = {name: list(getattr(value, "shape", ())) for name, value in maps.items()}
    if index is None and None not in shapes:
        fits = [name for name, shape in shapes.items() if shape[2:] == list(wanted_size[::-1])]
        if len(fits) != 1:
            raise ValueError(
                f"{len(fits)} of the backbone's outputs are {wanted_size[0]} wide and "
                f"{wanted_size[1]} high; choose one with feature_index= from {shapes}"
            )
        index = fits[0]
    if index not in shapes:
        raise ValueError(f"feature_index={index!r} is not one of the backbone's: {shapes}")
    if len(shapes[index]) != 4:
        raise ValueError(f"backbone: expected a feature map [B, C, H, W], got {shapes[index]}")
    return index


def take_map(features: Any, index: int | str | None) -> Tensor:
    """The chosen output of a backbone."""
    return features if index is None else features[index]
