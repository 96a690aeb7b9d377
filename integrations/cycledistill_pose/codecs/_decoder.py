"""Decoding as a module, so that it can be a part of an exported graph."""

from __future__ import annotations

from torch import Tensor, nn

from cycledistill_pose.codecs._heatmap import HeatmapCodec
from cycledistill_pose.codecs._regression import RegressionCodec


class KeypointDecoder(nn.Module):
    """A codec's `decode` as the last layer of a network.

    >>> import torch
    >>> decoder = KeypointDecoder(RegressionCodec(input_size=(192, 256)))
    >>> decoder(torch.tensor([[[0.25, 0.25, 0.0, 0.0]]]))
    {'keypoints': tensor([[[48., 64.]]]), 'scores': tensor([[0.5000]])}

    Args:
        codec: What decodes.
    """

    def __init__(self, codec: HeatmapCodec | RegressionCodec) -> None:
        super().__init__()
        self.codec = codec

    def forward(self, outputs: Tensor) -> dict[str, Tensor]:
        """Keypoints `[B, K, 2]` in px of the input and scores `[B, K]`."""
        keypoints, scores = self.codec.decode(outputs)
        return {"keypoints": keypoints, "scores": scores}

    def extra_repr(self) -> str:
        """What stands in the module's ``repr``."""
        return repr(self.codec)
