"""Keypoints as numbers between 0 and 1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cycledistill_pose._checks import check_pair, check_shape
from cycledistill_pose.codecs._flip import flip_regression
from cycledistill_pose.codecs._labels import check_keypoints


class RegressionCodec:
    """Targets and decoding for networks that return coordinates (TokenReg).

    >>> import torch
    >>> codec = RegressionCodec(input_size=(192, 256))
    >>> targets, weights = codec.encode(torch.tensor([[[48.0, 64.0], [200.0, 64.0]]]))
    >>> targets[0, 0], weights
    (tensor([0.2500, 0.2500]), tensor([[1., 0.]]))
    >>> keypoints, scores = codec.decode(torch.tensor([[[0.25, 0.25, 0.0, 0.0]]]))
    >>> keypoints, scores
    (tensor([[[48., 64.]]]), tensor([[0.5000]]))

    A keypoint outside the input gets weight 0, since the network does not see it. The score of a
    keypoint is the mean over both axes of 1 - sigma, where sigma = sigmoid(raw sigma) is the
    scale of the error that the network expects (Li et al., "Human Pose Regression with Residual
    Log-likelihood Estimation", ICCV 2021).

    Args:
        input_size: (width, height) of the network's input in px.

    Raises:
        ValueError: The size is not two positive numbers.
    """

    udp_crops = False  # as in `HeatmapCodec`

    def __init__(self, input_size: tuple[int, int]) -> None:
        self.input_size = check_pair("input_size", input_size)

    def to_dict(self) -> dict[str, Any]:
        """The options that `codec_for` takes, beside the network's sizes: none."""
        return {}

    def encode(self, keypoints: Tensor, visible: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Normalised targets and their weights.

        Args:
            keypoints: `[B, K, 2]`, (x, y) in px of the input.
            visible: `[B, K]`; 0 for keypoints without a label, more than 0 for others
                (above 1 counts as 1). None: all are labelled.

        Returns:
            Targets `[B, K, 2]`, x / width and y / height, and weights `[B, K]`.

        Raises:
            ValueError: The shapes are not these.
        """
        points, weights = check_keypoints(keypoints, visible)
        size = points.new_tensor(self.input_size)
        inside = ((points >= 0) & (points <= size - 1)).all(dim=-1)
        return points / size, weights * inside

    @torch.no_grad()
    def decode(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Keypoints and scores from what the network returned.

        Args:
            outputs: `[B, K, 4]`, (x, y) normalised to the input size and two raw sigmas, or
                `[B, K, 2]` without sigmas, whose scores are all 1.

        Returns:
            Keypoints `[B, K, 2]` in px of the input and scores `[B, K]` from 0 to 1.

        Raises:
            ValueError: Outputs have another shape.
        """
        if outputs.ndim != 3 or outputs.shape[-1] not in (2, 4):
            raise ValueError(f"outputs: expected [B, K, 4] or [B, K, 2], got {list(outputs.shape)}")
        if outputs.dtype != torch.float64:
            outputs = outputs.float()
        keypoints = outputs[..., :2] * outputs.new_tensor(self.input_size)
        if outputs.shape[-1] == 2:
            return keypoints, torch.ones_like(keypoints[..., 0])
        return keypoints, torch.sigmoid(-outputs[..., 2:]).mean(dim=-1)

    def flip(self, outputs: Tensor, flip_indices: Sequence[int]) -> Tensor:
        """Outputs `[B, K, C]` for the mirrored input as outputs for the input itself.

        This is `flip_regression` with this codec's width, exact to the pixel.
        """
        return flip_regression(outputs, flip_indices, input_width=self.input_size[0])

    def average(self, outputs: Tensor, flipped: Tensor) -> Tensor:
        """The outputs of the flip test: positions are averaged, and sigmas, not raw sigmas.

        So the score of a keypoint is the mean of its two scores, as in the top-down toolboxes.

        Args:
            outputs: `[B, K, 4]` or `[B, K, 2]`, for the input itself.
            flipped: The same of the mirrored input, brought back by `flip`.

        Returns:
            `[B, K, 4]` or `[B, K, 2]`, to be decoded.

        Raises:
            ValueError: The shapes differ.
        """
        check_shape("flipped", flipped, "B K C", **check_shape("outputs", outputs, "B K C"))
        positions = (outputs[..., :2] + flipped[..., :2]) / 2
        one, other = outputs[..., 2:], flipped[..., 2:]
        # The logit of the mean sigma: twice it over twice its complement, both as logarithms.
        sigma = torch.logaddexp(F.logsigmoid(one), F.logsigmoid(other))
        rest = torch.logaddexp(F.logsigmoid(-one), F.logsigmoid(-other))
        return torch.cat((positions, sigma - rest), dim=-1)

    def __repr__(self) -> str:
        return f"RegressionCodec(input_size={self.input_size})"
