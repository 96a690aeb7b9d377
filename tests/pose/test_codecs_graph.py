"""Decoding inside an exported graph gives the values of `decode`."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from cycledistill.export._formats import trace
from cycledistill.export._graph import Graph
from cycledistill_pose.codecs import HeatmapCodec
from cycledistill_pose.prediction._exportable import KeypointDecoder


def maps(codec: HeatmapCodec, batch_size: int) -> Tensor:
    """Noisy, empty, negative, shifted and clean maps, their maxima near borders, too."""
    keypoints = torch.rand(batch_size, 15, 2) * torch.tensor([52.0, 68.0]) - 2
    heatmaps, _ = codec.encode(keypoints)
    heatmaps[:, :4] += 0.02 * torch.randn_like(heatmaps[:, :4])
    heatmaps[:, 4] = 0
    heatmaps[:, 5] = -heatmaps[:, 5] - 0.1
    heatmaps[:, 6:9] -= 0.05 * torch.rand_like(heatmaps[:, 6:9])
    return heatmaps


@pytest.mark.parametrize("method", ["dark", "fit", "msra", "udp"])
def test_heatmaps(method: str) -> None:
    codec = HeatmapCodec((48, 64), (12, 16), 1.0, method, 5)  # type: ignore[arg-type]
    decoding = Graph(nn.Identity(), 1, None, KeypointDecoder(codec))
    graph = trace(decoding, (maps(codec, 3),)).module()
    for batch_size in (1, 2, 9):
        heatmaps = maps(codec, batch_size)
        keypoints, scores = codec.decode(heatmaps)
        found = graph(heatmaps)
        torch.testing.assert_close(found["keypoints"], keypoints, rtol=0, atol=1e-4)
        torch.testing.assert_close(found["scores"], scores, rtol=0, atol=0)
