"""Checks of sizes, and the choice of a backbone's feature map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn


def positive_integer(name: str, value: int) -> int:
    """Return `value`, or raise a `ValueError` that names it."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name}: expected an integer of 1 or more, got {value!r}")
    return value


def integer_pair(name: str, value: Sequence[int]) -> tuple[int, int]:
    """Return `value` as a tuple, or raise a `ValueError` that names it."""
    if isinstance(value, (int, str)) or len(value) != 2:
        raise ValueError(f"{name}: expected two integers, got {value!r}")
    first, second = value
    return positive_integer(name, first), positive_integer(name, second)


def probe_features(backbone: nn.Module, input_size: tuple[int, int]) -> Any:
    """Run a backbone once on a black image `(width, height)`, in evaluation mode."""
    modes = {module: module.training for module in backbone.modules()}
    width, height = input_size
    image = torch.zeros(1, 3, height, width)
    if (first := next(backbone.parameters(), None)) is not None:
        image = image.to(first)
    backbone.eval()
    try:
        with torch.no_grad():
            return backbone(image)
    finally:
        for module, training in modes.items():
            module.training = training


def choose_map(
    features: Any, wanted_size: tuple[int, int], index: int | str | None = None
) -> int | str | None:
    """Which of a backbone's outputs to use: `None` (it is one tensor), or an index or key.

    That is the user's `index`, or else the only map of `wanted_size` (width, height).
    """
    if isinstance(features, Tensor):
        if index not in (None, 0):
            raise ValueError(
                f"feature_index={index!r}, but the backbone returns one tensor of shape "
                f"{list(features.shape)}"
            )
        chosen: int | str | None = None
    else:
        maps = _named(features)
        found = ", ".join(f"{name!r}: {_shape(value)}" for name, value in maps.items())
        if index is None:
            width, height = wanted_size
            fits = [name for name, value in maps.items() if _shape(value)[2:] == [height, width]]
            if len(fits) != 1:
                raise ValueError(
                    f"{len(fits)} of the backbone's outputs are {width} wide and {height} high; "
                    f"choose one with feature_index= from {found}"
                )
            chosen = fits[0]
        elif isinstance(index, int) and not isinstance(features, Mapping):
            chosen = index % len(maps) if -len(maps) <= index < len(maps) else index
        else:
            chosen = index
        if chosen not in maps:
            raise ValueError(f"feature_index={index!r} is not one of the backbone's: {found}")
    shape = _shape(take_map(features, chosen))
    if len(shape) != 4:
        raise ValueError(f"backbone: expected a feature map [B, C, H, W], got {shape}")
    return chosen


def take_map(features: Any, index: int | str | None) -> Tensor:
    """The chosen output of a backbone."""
    return features if index is None else features[index]


def _named(features: Any) -> dict[int | str, Any]:
    if isinstance(features, Mapping):
        return dict(features)
    if isinstance(features, Sequence) and not isinstance(features, str):
        return dict(enumerate(features))
    raise ValueError(
        "backbone: expected it to return a tensor, or a list, tuple or mapping of them, "
        f"got {type(features).__name__}"
    )


def _shape(value: Any) -> list[int]:
    return list(value.shape) if isinstance(value, Tensor) else []
