"""Outputs for a mirrored image as outputs for the image itself."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cycledistill_pose._checks import check_shape


def flip_heatmaps(heatmaps: Tensor, flip_indices: Sequence[int], shift: bool = True) -> Tensor:
    """Heatmaps of a mirrored image as heatmaps of the image.

    >>> import torch
    >>> heatmaps = torch.arange(4.0).expand(1, 2, 1, 4)
    >>> flip_heatmaps(heatmaps, (1, 0), shift=False)[0, 0]
    tensor([[3., 2., 1., 0.]])
    >>> flip_heatmaps(heatmaps, (1, 0))[0, 0]
    tensor([[3., 3., 2., 1.]])

    Args:
        heatmaps: `[B, K, H, W]`, the output for the mirrored input.
        flip_indices: K indices; keypoint k of the image is keypoint `flip_indices[k]` of the
            mirrored one (`Skeleton.flip_indices`).
        shift: Move the maps one pixel to the right and repeat the first column. A network whose
            heatmap pixel i looks at input pixels `stride * i` onwards is not symmetric: its
            mirrored maps are off by almost one pixel. Maps of the "udp" method are symmetric and
            need False.

    Returns:
        `[B, K, H, W]`, to be averaged with the output for the image itself.

    Raises:
        ValueError: Heatmaps are not `[B, K, H, W]` or there are not K indices.
    """
    check_shape("heatmaps", heatmaps, "B K H W")
    flipped = _swap(heatmaps, flip_indices, "heatmaps").flip(-1)
    if shift:
        flipped = torch.cat((flipped[..., :1], flipped[..., :-1]), dim=-1)
    return flipped


def flip_regression(
    outputs: Tensor, flip_indices: Sequence[int], input_width: int | None = None
) -> Tensor:
    """Coordinates of a mirrored image as coordinates of the image.

    >>> import torch
    >>> outputs = torch.tensor([[[0.25, 0.1, 5.0, 6.0], [0.5, 0.2, 7.0, 8.0]]])
    >>> flip_regression(outputs, (1, 0))
    tensor([[[0.5000, 0.2000, 7.0000, 8.0000],
             [0.7500, 0.1000, 5.0000, 6.0000]]])

    Args:
        outputs: `[B, K, C]` with x in the first channel, normalised to the input size (x px /
            width). Other channels (y, the sigmas) stay as they are.
        flip_indices: K indices, as for `flip_heatmaps`.
        input_width: Width of the network's input in px. Mirroring an image of W pixels takes
            pixel x to W - 1 - x, so that x / W becomes 1 - x / W - 1 / W; given the width, this
            last term is counted. None leaves it out, as the first releases of the regression
            networks did.

    Returns:
        `[B, K, C]`, to be averaged with the output for the image itself.

    Raises:
        ValueError: Outputs are not `[B, K, C]` or there are not K indices.
    """
    check_shape("outputs", outputs, "B K C")
    swapped = _swap(outputs, flip_indices, "outputs")
    mirror = 1.0 if input_width is None else 1.0 - 1.0 / input_width
    return torch.cat((mirror - swapped[..., :1], swapped[..., 1:]), dim=-1)


def _swap(values: Tensor, flip_indices: Sequence[int], name: str) -> Tensor:
    if len(flip_indices) != values.shape[1]:
        raise ValueError(
            f"{name} are of {values.shape[1]} keypoints, but there are {len(flip_indices)} "
            "flip_indices"
        )
    return values[:, list(flip_indices)]
