"""RegressionCodec and the flip test's helpers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cycledistill_pose.codecs import (
    HeatmapCodec,
    RegressionCodec,
    flip_heatmaps,
    flip_regression,
)

FLIP = (0, 2, 1)


def test_targets_and_weights():
    codec = RegressionCodec(input_size=(192, 256))
    points = torch.tensor(
        [[[0.0, 0.0], [191.0, 255.0], [191.5, 10.0], [-0.1, 10.0], [96.0, 64.0], [5.0, 5.0]]]
    )
    visible = torch.tensor([[1.0, 2.0, 1.0, 1.0, 0.0, 0.5]])
    targets, weights = codec.encode(points, visible)
    torch.testing.assert_close(targets, points / torch.tensor([192.0, 256.0]))
    assert torch.equal(weights, torch.tensor([[1.0, 1.0, 0.0, 0.0, 0.0, 0.5]]))


def test_not_finite_is_not_labelled():
    codec = RegressionCodec(input_size=(192, 256))
    points = torch.tensor([[[float("nan"), 3.0], [3.0, float("inf")], [3.0, 3.0]]])
    targets, weights = codec.encode(points)
    assert targets.isfinite().all()
    assert torch.equal(weights, torch.tensor([[0.0, 0.0, 1.0]]))


def test_decoding_takes_back_encoding_and_scores_by_sigma():
    codec = RegressionCodec(input_size=(192, 256))
    points = torch.rand(4, 17, 2) * torch.tensor([191.0, 255.0])
    targets, weights = codec.encode(points)
    assert (weights == 1).all()
    raw = 5 * torch.randn(4, 17, 2)
    keypoints, scores = codec.decode(torch.cat((targets, raw), dim=-1))
    torch.testing.assert_close(keypoints, points)
    expected = np.zeros((4, 17))
    for b, k in np.ndindex(4, 17):
        sigmas = [1 / (1 + np.exp(-float(raw[b, k, axis]))) for axis in (0, 1)]
        expected[b, k] = ((1 - sigmas[0]) + (1 - sigmas[1])) / 2
    np.testing.assert_allclose(scores.numpy(), expected, rtol=1e-5)
    keypoints, scores = codec.decode(targets)
    torch.testing.assert_close(keypoints, points)
    assert (scores == 1).all()


def test_flipping_heatmaps_by_hand():
    heatmaps = torch.arange(3 * 4.0).view(1, 3, 1, 4)
    plain = flip_heatmaps(heatmaps, FLIP, shift=False)[0, :, 0]
    assert plain.tolist() == [[3, 2, 1, 0], [11, 10, 9, 8], [7, 6, 5, 4]]
    shifted = flip_heatmaps(heatmaps, FLIP)[0, :, 0]
    assert shifted.tolist() == [[3, 3, 2, 1], [11, 11, 10, 9], [7, 7, 6, 5]]
    assert heatmaps.flatten().tolist() == list(range(12))


def mirrored(points: torch.Tensor, width: int) -> torch.Tensor:
    """Keypoints of the mirrored image: pixel x becomes width - 1 - x, sides change names."""
    flipped = points.clone()
    flipped[..., 0] = width - 1 - flipped[..., 0]
    return flipped[:, list(FLIP)]


@pytest.mark.parametrize(("method", "tolerance"), [("dark", 1.05), ("fit", 1.05), ("udp", 0.02)])
def test_maps_of_the_mirrored_image_meet_those_of_the_image(method, tolerance):
    """In px of the input: exact for udp; for the others the shift leaves a quarter map px."""
    codec = HeatmapCodec(method=method)
    points = 40 + torch.rand(2, 3, 2) * torch.tensor([100.0, 160.0])
    flipped, _ = codec.encode(mirrored(points, 192))
    back, _ = codec.decode(codec.flip(flipped, FLIP))
    assert (back - points).abs().max() < tolerance
    other, _ = codec.decode(flip_heatmaps(flipped, FLIP, shift=method == "udp"))
    assert (other - points).abs()[..., 0].min() > 2.9


def test_coordinates_of_the_mirrored_image_meet_those_of_the_image():
    codec = RegressionCodec(input_size=(192, 256))
    points = torch.rand(2, 3, 2) * torch.tensor([191.0, 255.0])
    raw = torch.randn(2, 3, 2)
    mirror = torch.cat((codec.encode(mirrored(points, 192))[0], raw[:, list(FLIP)]), dim=-1)
    expected = torch.cat((codec.encode(points)[0], raw), dim=-1)
    torch.testing.assert_close(codec.flip(mirror, FLIP), expected)
    torch.testing.assert_close(flip_regression(mirror, FLIP, input_width=192), expected)
    without = expected.clone()
    without[..., 0] += 1 / 192
    torch.testing.assert_close(flip_regression(mirror, FLIP), without)


def test_the_flip_test_averages_scores_and_not_raw_sigmas():
    codec = RegressionCodec(input_size=(192, 256))
    one, other = 3 * torch.randn(4, 17, 4), 3 * torch.randn(4, 17, 4)
    points, scores = codec.decode(codec.average(one, other))
    for b in range(4):
        for k in range(17):
            sigmas = [
                1 / (1 + math.exp(-float(outputs[b, k, c])))
                for outputs in (one, other)
                for c in (2, 3)
            ]
            assert float(scores[b, k]) == pytest.approx(1 - sum(sigmas) / 4, abs=1e-6)
            x = (float(one[b, k, 0]) + float(other[b, k, 0])) / 2 * 192
            assert float(points[b, k, 0]) == pytest.approx(x, abs=1e-3)
    extreme = torch.tensor([[[0.5, 0.5, 200.0, -200.0]]])
    _, scores = codec.decode(codec.average(extreme, extreme))
    assert scores.tolist() == [[0.5]]
    assert codec.average(one[..., :2], other[..., :2]).shape == (4, 17, 2)
    with pytest.raises(ValueError, match=r"flipped: .* K = 17, C = 4, got \[4, 17, 2\]"):
        codec.average(one, other[..., :2])


def test_the_flip_test_averages_heatmaps():
    codec = HeatmapCodec()
    one, other = torch.rand(2, 1, 3, 64, 48)
    torch.testing.assert_close(codec.average(one, other), (one + other) / 2)
    with pytest.raises(ValueError, match=r"flipped: .* K = 3, .*, got \[1, 2, 64, 48\]"):
        codec.average(one, other[:, :2])


def test_wrong_arguments():
    codec = RegressionCodec(input_size=(192, 256))
    with pytest.raises(ValueError, match=r"outputs: expected \[B, K, 4\] or \[B, K, 2\]"):
        codec.decode(torch.zeros(1, 17, 3))
    with pytest.raises(ValueError, match="input_size: expected"):
        RegressionCodec(input_size=(192.5, 256))
    with pytest.raises(ValueError, match="of 17 keypoints, but there are 3 flip_indices"):
        flip_heatmaps(torch.zeros(1, 17, 4, 4), FLIP)
    with pytest.raises(ValueError, match=r"heatmaps: expected \[B, K, H, W\]"):
        flip_heatmaps(torch.zeros(17, 4, 4), FLIP)
    with pytest.raises(ValueError, match=r"outputs: expected \[B, K, C\]"):
        flip_regression(torch.zeros(17, 4), FLIP)
