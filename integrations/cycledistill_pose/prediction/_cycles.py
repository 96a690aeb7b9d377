"""Keypoints after every cycle, with the flip test."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cycledistill import CycleWrapper
from cycledistill_pose.codecs import HeatmapCodec, RegressionCodec


@torch.no_grad()
def predict_cycles(
    model: CycleWrapper,
    images: Tensor,
    codec: HeatmapCodec | RegressionCodec,
    num_cycles: int = 1,
    flip_indices: Sequence[int] | None = None,
) -> list[tuple[Tensor, Tensor]]:
    """Keypoints `[B, K, 2]` px of the input and scores `[B, K]` after each cycle.

    Args:
        model: The wrapped network, in eval mode.
        images: `[B, 3, H, W]`, normalised.
        codec: Decodes what the network returns.
        num_cycles: Cycles to run.
        flip_indices: The skeleton's, to average with the outputs for the mirrored images; None, or
            a skeleton without flip pairs, leaves the flip test out.
    """
    outputs = model.forward_cycles(images, num_cycles=num_cycles).predictions
    if flip_indices is not None and list(flip_indices) != list(range(len(flip_indices))):
        mirrored = model.forward_cycles(images.flip(-1), num_cycles=num_cycles).predictions
        outputs = tuple(
            codec.average(output, codec.flip(other, flip_indices))
            for output, other in zip(outputs, mirrored, strict=True)
        )
    return [codec.decode(output) for output in outputs]
