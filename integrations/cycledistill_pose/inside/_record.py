"""Attention of a pose network, and the positions of its visual tokens on the image."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from cycledistill import CycleWrapper
from cycledistill.inside import AttentionMap, record_attention
from cycledistill_pose.models import TokenPose, TokenReg
from cycledistill_pose.models._pruning import PruningPass


class PoseAttention(NamedTuple):
    """What `plot_attention_over_image` needs.

    Attributes:
        maps: One for each block and cycle.
        positions: For each map `[B, T]`, positions of its tokens in the whole sequence.
        grid: `(rows, columns)` of the visual tokens before any pruning.
    """

    maps: list[AttentionMap]
    positions: list[Tensor]
    grid: tuple[int, int]


def record_pose_attention(cycled: CycleWrapper, images: Tensor, num_cycles: int) -> PoseAttention:
    """Run a cycled pose network and return its attention, pruned (PPT) or not.

    ```python
    maps, positions, grid = record_pose_attention(cycled, images, num_cycles=2)
    plot_attention_over_image(maps, picture, 0, grid, positions=positions, name="nose")
    ```

    Args:
        cycled: A `TokenPose` or `TokenReg` in a `CycleWrapper`, in eval mode.
        images: `[B, 3, H, W]`, normalised.
        num_cycles: Cycles to run.

    Raises:
        TypeError: The model is another one.
        ValueError: The model is in training mode.
    """
    model = cycled.plain
    if not isinstance(model, TokenPose | TokenReg):
        raise TypeError(f"cycled: found a {type(model).__name__}, expected a TokenPose or TokenReg")
    passes: list[PruningPass] = []

    def note(module: Any, args: tuple[Any, ...]) -> None:
        passes.extend(arg for arg in args if isinstance(arg, PruningPass))

    with model.blocks[0].register_forward_pre_hook(note):
        maps = record_attention(cycled, images, blocks="blocks", num_cycles=num_cycles)
    positions = []
    for found in maps:
        batch, _, count, _ = found.weights.shape
        places = passes[0].standing(count) if passes else torch.arange(count)[None]
        positions.append(places.expand(batch, -1))
    return PoseAttention(maps, positions, model.grid)
