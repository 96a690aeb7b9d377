"""Keypoints after every cycle, with the flip test."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cycledistill import CycleWrapper
from cycledistill_pose.codecs import HeatmapCodec, RegressionCodec


@torch.no_grad()
def predict_cycles(
    model: nn.Module,
    images: Tensor,
    codec: HeatmapCodec | RegressionCodec,
    num_cycles: int = 1,
    flip_indices: Sequence[int] | None = None,
) -> list[tuple[Tensor, Tensor]]:
    """Keypoints `[B, K, 2]` px of the input and scores `[B, K]` after each cycle.

    Args:
        model: The network, in eval mode; wrapped, or plain for a single pass.
        images: `[B, 3, H, W]`, normalised.
        codec: Decodes what the network returns.
        num_cycles: Cycles to run.
        flip_indices: The skeleton's, to average with the outputs for the mirrored images; None, or
            a skeleton without flip pairs, leaves the flip test out.

    Raises:
        TypeError: Several cycles, but the network is plain.
    """
    outputs = _outputs(model, images, num_cycles)
    if flip_indices is not None and list(flip_indices) != list(range(len(flip_indices))):
        mirrored = _outputs(model, images.flip(-1), num_cycles)
        outputs = tuple(
            codec.average(output, codec.flip(other, flip_indices))
            for output, other in zip(outputs, mirrored, strict=True)
        )
    return [codec.decode(output) for output in outputs]


def _outputs(model: nn.Module, images: Tensor, num_cycles: int) -> tuple[Tensor, ...]:
    if isinstance(model, CycleWrapper):
        return tuple(model.forward_cycles(images, num_cycles=num_cycles).predictions)
    if num_cycles != 1:
        raise TypeError(
            f"model: expected a CycleWrapper for {num_cycles} cycles, got {type(model).__name__}"
        )
    return (model(images),)
