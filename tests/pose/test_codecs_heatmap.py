"""HeatmapCodec against slow loops over keypoints that follow the mathematics one by one."""

from __future__ import annotations

import math
from collections.abc import Callable

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cycledistill_pose.codecs import HeatmapCodec, _refine
from cycledistill_pose.codecs._refine import _blur_map, blur_weights

METHODS = ("dark", "msra", "udp")
SIZES = [((192, 256), (48, 64)), ((288, 384), (72, 96)), ((100, 60), (37, 23))]


def slow_stride(codec: HeatmapCodec) -> tuple[float, float]:
    (w, h), (map_w, map_h) = codec.input_size, codec.heatmap_size
    if codec.method == "udp":
        return (w - 1) / (map_w - 1), (h - 1) / (map_h - 1)
    return w / map_w, h / map_h


def slow_encode(
    codec: HeatmapCodec, points: np.ndarray, visible: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """One keypoint and one pixel range after the other, in float64."""
    map_w, map_h = codec.heatmap_size
    sigma, stride = codec.sigma, slow_stride(codec)
    heatmaps = np.zeros((*points.shape[:2], map_h, map_w))
    weights = visible.astype(float).copy()
    xs, ys = np.meshgrid(np.arange(map_w), np.arange(map_h))
    for b, k in np.ndindex(*points.shape[:2]):
        mx, my = points[b, k, 0] / stride[0], points[b, k, 1] / stride[1]
        if codec.method == "dark":
            left, right, top, bottom = mx - 3 * sigma, mx + 3 * sigma, my - 3 * sigma, 0.0
            bottom = my + 3 * sigma
            cx, cy = mx, my
        else:
            px, py = int(mx + 0.5), int(my + 0.5)
            left, right = int(px - 3 * sigma), int(px + 3 * sigma + 1) - 1
            top, bottom = int(py - 3 * sigma), int(py + 3 * sigma + 1) - 1
            cx, cy = (px, py) if codec.method == "msra" else (mx, my)
        if left >= map_w or top >= map_h or right + 1 < 0 or bottom + 1 < 0:
            weights[b, k] = 0
        if weights[b, k] <= 0.5:
            continue
        gauss = np.exp(-((xs - cx) ** 2 + (ys - cy) ** 2) / (2 * sigma**2))
        if codec.method != "dark":
            gauss *= (xs >= left) & (xs <= right) & (ys >= top) & (ys <= bottom)
        heatmaps[b, k] = gauss
    return heatmaps, weights


def slow_decode(codec: HeatmapCodec, heatmaps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One map after the other, blurred as a whole by OpenCV."""
    stride = slow_stride(codec)
    points = np.full((*heatmaps.shape[:2], 2), -1.0)
    scores = heatmaps.max(axis=(2, 3))
    refine: Callable[[np.ndarray, int, int, int], np.ndarray] = {
        "msra": slow_quarter,
        "dark": slow_dark,
        "udp": slow_udp,
    }[codec.method]
    for b, k in np.ndindex(*heatmaps.shape[:2]):
        heatmap = heatmaps[b, k]
        y, x = np.unravel_index(np.argmax(heatmap), heatmap.shape)
        if heatmap[y, x] > 0:
            points[b, k] = np.array([x, y]) + refine(heatmap, int(x), int(y), codec.blur_kernel)
    return points * np.array(stride), scores


def slow_quarter(heatmap: np.ndarray, x: int, y: int, kernel: int) -> np.ndarray:
    h, w = heatmap.shape
    if not (1 < x < w - 1 and 1 < y < h - 1):
        return np.zeros(2)
    dx = heatmap[y, x + 1] - heatmap[y, x - 1]
    dy = heatmap[y + 1, x] - heatmap[y - 1, x]
    return 0.25 * np.sign([dx, dy])


def slow_dark(heatmap: np.ndarray, x: int, y: int, kernel: int) -> np.ndarray:
    h, w = heatmap.shape
    if not (1 < x < w - 2 and 1 < y < h - 2):
        return np.zeros(2)
    m = kernel // 2
    blurred = cv2.GaussianBlur(np.pad(heatmap, m), (kernel, kernel), 0)[m : m + h, m : m + w]
    blurred = blurred * (heatmap.max() / blurred.max())
    log = np.log(np.maximum(blurred, 1e-10)).astype(np.float64)
    gradient = [(log[y, x + 1] - log[y, x - 1]) / 2, (log[y + 1, x] - log[y - 1, x]) / 2]
    dxx = (log[y, x + 2] - 2 * log[y, x] + log[y, x - 2]) / 4
    dyy = (log[y + 2, x] - 2 * log[y, x] + log[y - 2, x]) / 4
    dxy = (log[y + 1, x + 1] - log[y - 1, x + 1] - log[y + 1, x - 1] + log[y - 1, x - 1]) / 4
    if dxx * dyy - dxy**2 == 0:
        return np.zeros(2)
    return -np.linalg.solve([[dxx, dxy], [dxy, dyy]], gradient)


def slow_udp(heatmap: np.ndarray, x: int, y: int, kernel: int) -> np.ndarray:
    blurred = cv2.GaussianBlur(heatmap, (kernel, kernel), 0)
    log = np.pad(np.log(np.clip(blurred, 1e-3, 50)).astype(np.float64), 1, mode="edge")
    x, y = x + 1, y + 1
    gradient = [(log[y, x + 1] - log[y, x - 1]) / 2, (log[y + 1, x] - log[y - 1, x]) / 2]
    dxx = log[y, x + 1] - 2 * log[y, x] + log[y, x - 1]
    dyy = log[y + 1, x] - 2 * log[y, x] + log[y - 1, x]
    # f(1,1) + f(-1,-1) = 2 f + dxx + dyy + 2 dxy, to the second order
    corners = log[y + 1, x + 1] + log[y - 1, x - 1]
    dxy = (corners - 2 * log[y, x] - dxx - dyy) / 2
    eps = np.finfo(np.float32).eps * np.eye(2)
    return -np.linalg.solve(np.array([[dxx, dxy], [dxy, dyy]]) + eps, gradient)


def random_points(rng: np.random.Generator, codec: HeatmapCodec, b: int = 3, k: int = 17):
    """Inside, on the border, just outside and far outside."""
    size = np.array(codec.input_size)
    points = rng.uniform(-0.3, 1.3, (b, k, 2)) * size
    points[0, 0] = 0
    points[0, 1] = size - 1
    points[0, 2] = -1e6
    points[0, 3] = [size[0] * 50, 0]
    visible = (rng.random((b, k)) < 0.8).astype(np.float32)
    return points.astype(np.float32), visible


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("sigma", [2.0, 3.0, 1.5])
@pytest.mark.parametrize("method", METHODS)
def test_targets_are_those_of_the_slow_loop(method, sigma, sizes):
    codec = HeatmapCodec(*sizes, sigma=sigma, method=method)
    for seed in range(5):
        points, visible = random_points(np.random.default_rng(seed), codec)
        expected, expected_weights = slow_encode(codec, points, visible)
        heatmaps, weights = codec.encode(torch.from_numpy(points), torch.from_numpy(visible))
        assert heatmaps.dtype == weights.dtype == torch.float32
        np.testing.assert_array_equal(weights.numpy(), expected_weights)
        np.testing.assert_allclose(heatmaps.numpy(), expected, atol=2e-5)


@pytest.mark.parametrize("method", METHODS)
def test_every_patch_that_crosses_a_border(method):
    codec = HeatmapCodec(method=method)
    steps = np.arange(-40.0, 48.0, 0.25)
    for axis, far in ((0, 192 - 4), (1, 256 - 4)):
        for start in (0, far):
            points = np.full((1, len(steps), 2), 50.0, dtype=np.float32)
            points[0, :, axis] = start + steps
            visible = np.ones((1, len(steps)), dtype=np.float32)
            expected, expected_weights = slow_encode(codec, points, visible)
            heatmaps, weights = codec.encode(torch.from_numpy(points), torch.from_numpy(visible))
            np.testing.assert_array_equal(weights.numpy(), expected_weights)
            np.testing.assert_allclose(heatmaps.numpy(), expected, atol=2e-5)
            assert 0 < expected_weights.sum() < len(steps)


def test_dark_target_by_hand():
    codec = HeatmapCodec(method="dark", sigma=2.0)
    heatmaps, weights = codec.encode(torch.tensor([[[42.0, 81.0]]]))
    assert weights.item() == 1
    # 42 / 4 = 10.5 and 81 / 4 = 20.25
    for x, y in ((10, 20), (30, 40), (0, 63)):
        value = math.exp(-((x - 10.5) ** 2 + (y - 20.25) ** 2) / 8)
        assert heatmaps[0, 0, y, x].item() == pytest.approx(value, rel=1e-5)


def test_msra_target_is_a_square_patch_of_thirteen_pixels():
    heatmaps, _ = HeatmapCodec(method="msra").encode(torch.tensor([[[81.9, 122.0]]]))
    rows, columns = heatmaps[0, 0].nonzero().unbind(-1)
    assert (columns.min(), columns.max(), rows.min(), rows.max()) == (14, 26, 25, 37)
    assert heatmaps[0, 0, 31, 20] == 1


@pytest.mark.parametrize("method", METHODS)
def test_weight_follows_visibility(method):
    codec = HeatmapCodec(method=method)
    points = torch.full((1, 5, 2), 80.0)
    points[0, 4] = float("nan")
    visible = torch.tensor([[0.0, 0.4, 1.0, 2.0, 1.0]])
    heatmaps, weights = codec.encode(points, visible)
    assert torch.equal(weights, torch.tensor([[0.0, 0.4, 1.0, 1.0, 0.0]]))
    drawn = heatmaps.amax(dim=(2, 3)) > 0
    assert drawn.tolist() == [[False, False, True, True, False]]
    assert heatmaps.isfinite().all()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("sizes", SIZES)
def test_decoding_is_that_of_the_slow_loop_on_targets(method, sizes):
    codec = HeatmapCodec(*sizes, method=method)
    for seed in range(5):
        points, _ = random_points(np.random.default_rng(seed), codec)
        heatmaps, _ = codec.encode(torch.from_numpy(points))
        expected, expected_scores = slow_decode(codec, heatmaps.numpy())
        decoded, scores = codec.decode(heatmaps)
        np.testing.assert_allclose(decoded.numpy(), expected, atol=0.01)
        np.testing.assert_allclose(scores.numpy(), expected_scores)


def network_like(rng: np.random.Generator, codec: HeatmapCodec) -> np.ndarray:
    """Several bumps of any height, a tilt, and noise of either sign."""
    points, _ = random_points(rng, codec)
    heatmaps = codec.encode(torch.from_numpy(points))[0].numpy()
    heatmaps = heatmaps * rng.uniform(0.02, 1.2, (*heatmaps.shape[:2], 1, 1))
    heatmaps += 0.6 * rng.random() * np.roll(heatmaps, 1, axis=1)
    noise = rng.normal(0, 1, heatmaps.shape) * rng.choice([0, 1e-4, 0.003])
    return (heatmaps + noise + rng.choice([0, -0.002, -0.02])).astype(np.float32)


@pytest.mark.parametrize("method", METHODS)
def test_decoding_is_that_of_the_slow_loop_on_noisy_maps(method):
    codec = HeatmapCodec(method=method)
    for seed in range(12):
        heatmaps = network_like(np.random.default_rng(seed), codec)
        expected, _ = slow_decode(codec, heatmaps)
        decoded, _ = codec.decode(torch.from_numpy(heatmaps))
        # A step of many pixels comes from a Hessian close to singular, where rounding decides.
        near = np.abs(expected - decoded.numpy()) <= 0.01 + 1e-3 * np.abs(expected)
        assert near.mean() > 0.995
        steps = np.abs(expected - slow_peaks(codec, heatmaps)).max(axis=-1)
        assert near[steps < 8].all()


def slow_peaks(codec: HeatmapCodec, heatmaps: np.ndarray) -> np.ndarray:
    flat = heatmaps.reshape(*heatmaps.shape[:2], -1).argmax(-1)
    width = heatmaps.shape[-1]
    return np.stack((flat % width, flat // width), axis=-1) * np.array(slow_stride(codec))


def test_the_floor_of_the_logarithm_is_met_as_in_the_slow_loop():
    """Peaks of a pixel above negative ground: the blurred map is negative around them."""
    codec = HeatmapCodec(method="dark")
    rng = np.random.default_rng(0)
    heatmaps = rng.normal(-0.05, 0.002, (4, 17, 64, 48)).astype(np.float32)
    for b, k in np.ndindex(4, 17):
        y, x = rng.integers(3, 60), rng.integers(3, 44)
        heatmaps[b, k, y, x] = 1.0
        heatmaps[b, k, y, x + 1] = rng.uniform(0.0, 0.9)
        heatmaps[b, k, y + 1, x] = rng.uniform(0.0, 0.9)
    expected, _ = slow_decode(codec, heatmaps)
    decoded, _ = codec.decode(torch.from_numpy(heatmaps))
    np.testing.assert_allclose(decoded.numpy(), expected, atol=0.01)


@pytest.mark.parametrize("kernel", [1, 3, 5, 7, 9, 11, 17])
@pytest.mark.parametrize("size", [(64, 48), (9, 23)])
def test_the_blur_is_rounded_as_opencvs(kernel, size):
    """Bit for bit, but for how a processor fuses a product with a sum."""
    maps = np.random.default_rng(0).random((6, *size), dtype=np.float32)
    margin = kernel // 2
    expected = [
        cv2.GaussianBlur(np.pad(heatmap, margin), (kernel, kernel), 0)[
            margin : margin + size[0], margin : margin + size[1]
        ]
        for heatmap in maps
    ]
    blurred = _blur_map(torch.from_numpy(maps), blur_weights(kernel)).numpy()
    spacing = np.spacing(np.stack(expected))
    assert np.abs((blurred - np.stack(expected)) / spacing).max() <= 2


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("sizes", [((96, 128), (24, 32)), ((28, 36), (7, 9))])
def test_decoding_is_the_same_bit_for_bit_where_numpy_cannot_help(method, sizes, monkeypatch):
    """On devices and in graphs pixels are found and taken in another way."""
    codec = HeatmapCodec(*sizes, method=method)
    for seed in range(20):
        heatmaps = torch.from_numpy(network_like(np.random.default_rng(seed), codec))
        heatmaps[-1, -1, -1, -3] = heatmaps[0, 0, 2, 2] = 5.0  # by the ends of the batch
        heatmaps[0, 1] = float("nan")  # must not reach its neighbours
        expected = codec.decode(heatmaps)
        with monkeypatch.context() as patch:
            patch.setattr(_refine, "_on_cpu", lambda tensor: False)
            found = codec.decode(heatmaps)
        for one, other in zip(found, expected, strict=True):
            assert torch.equal(one.nan_to_num(-7), other.nan_to_num(-7))
            assert other[0, [0, 2]].isfinite().all() and other[1:].isfinite().all()


def test_udp_decoding_of_almost_flat_maps_is_that_of_the_slow_loop():
    """Blurred noise: its curvature is near the rounding of the blur, which must be the same."""
    codec = HeatmapCodec(method="udp")
    heatmaps = np.random.default_rng(0).random((8, 17, 64, 48), dtype=np.float32)
    expected, _ = slow_decode(codec, heatmaps)
    near = np.abs(codec.decode(torch.from_numpy(heatmaps))[0].numpy() - expected) <= 0.01
    assert near.mean() > 0.97


@pytest.mark.parametrize("method", [*METHODS, "fit"])
def test_maps_without_a_positive_value(method):
    codec = HeatmapCodec(method=method)
    heatmaps = torch.stack((torch.zeros(64, 48), -torch.rand(64, 48) - 0.1))[None]
    keypoints, scores = codec.decode(heatmaps)
    stride = torch.tensor(slow_stride(codec))
    torch.testing.assert_close(keypoints, -stride.expand(1, 2, 2))
    assert (scores <= 0).all()


@pytest.mark.parametrize("kernel", [3, 5, 7, 9, 17])
@pytest.mark.parametrize("method", ["dark", "udp"])
def test_other_blurs(method, kernel):
    codec = HeatmapCodec(method=method, sigma=3.0, blur_kernel=kernel)
    heatmaps = codec.encode(torch.rand(2, 17, 2) * torch.tensor([192.0, 256.0]))[0]
    expected, _ = slow_decode(codec, heatmaps.numpy())
    np.testing.assert_allclose(codec.decode(heatmaps)[0].numpy(), expected, atol=0.01)


@settings(max_examples=60)
@given(x=st.floats(36, 155), y=st.floats(36, 219), height=st.floats(0.05, 3.0))
def test_dark_gives_back_what_it_was_given(x, y, height):
    codec = HeatmapCodec(method="dark")
    points = torch.tensor([[[x, y]]])
    heatmaps, _ = codec.encode(points)
    decoded, scores = codec.decode(height * heatmaps)
    assert (decoded - points).abs().max() < 0.02
    torch.testing.assert_close(scores, (height * heatmaps).amax(dim=(2, 3)))


def test_udp_coordinates_reach_the_last_pixel():
    codec = HeatmapCodec(method="udp")
    heatmaps = torch.zeros(1, 1, 64, 48)
    heatmaps[0, 0, 63, 47] = 1
    assert codec.stride == (191 / 47, 255 / 63)
    keypoints, _ = HeatmapCodec(method="udp", blur_kernel=1).decode(heatmaps)
    assert (keypoints - torch.tensor([191.0, 255.0])).abs().max() < 5


def test_low_precision_and_autocast_do_not_change_the_result():
    codec = HeatmapCodec()
    heatmaps, _ = codec.encode(torch.rand(2, 17, 2) * 180)
    keypoints, _ = codec.decode(heatmaps)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside, _ = codec.decode(heatmaps)
    assert torch.equal(inside, keypoints)
    half, _ = codec.decode(heatmaps.half())
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, keypoints, atol=0.2, rtol=0)
    double, _ = codec.decode(heatmaps.double())
    assert double.dtype == torch.float64
    torch.testing.assert_close(double.float(), keypoints, atol=1e-3, rtol=0)


def test_an_empty_batch():
    codec = HeatmapCodec()
    heatmaps, weights = codec.encode(torch.zeros(0, 17, 2), torch.zeros(0, 17))
    assert heatmaps.shape == (0, 17, 64, 48)
    assert weights.shape == (0, 17)
    for method in METHODS:
        keypoints, scores = HeatmapCodec(method=method).decode(heatmaps)
        assert keypoints.shape == (0, 17, 2)
        assert scores.shape == (0, 17)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"method": "megvii"}, "method: expected 'dark', "),
        ({"sigma": 0}, "sigma: expected a positive number"),
        ({"blur_kernel": 4}, "blur_kernel: expected an odd"),
        ({"input_size": (192, 0)}, "input_size: expected"),
        ({"heatmap_size": (48, 64, 3)}, "heatmap_size: expected"),
        ({"heatmap_size": (1, 64), "method": "udp"}, "'udp' needs sizes"),
    ],
)
def test_wrong_arguments(arguments, words):
    with pytest.raises(ValueError, match=words):
        HeatmapCodec(**arguments)


def test_wrong_shapes():
    codec = HeatmapCodec()
    with pytest.raises(ValueError, match=r"keypoints: expected \[B, K, 2\], got \[17, 2\]"):
        codec.encode(torch.zeros(17, 2))
    with pytest.raises(ValueError, match=r"visible: .* with B = 1, K = 17, got \[1, 16\]"):
        codec.encode(torch.zeros(1, 17, 2), torch.zeros(1, 16))
    with pytest.raises(ValueError, match=r"with H = 64, W = 48, got \[1, 17, 48, 64\]"):
        codec.decode(torch.zeros(1, 17, 48, 64))


@pytest.mark.gpu
@pytest.mark.parametrize("method", [*METHODS, "fit"])
def test_the_device_does_not_matter(method):
    codec = HeatmapCodec(method=method)
    points = torch.rand(4, 17, 2) * 220 - 10
    heatmaps, weights = codec.encode(points)
    on_device, device_weights = codec.encode(points.cuda())
    assert on_device.is_cuda
    torch.testing.assert_close(on_device.cpu(), heatmaps, atol=1e-5, rtol=0)
    assert torch.equal(device_weights.cpu(), weights)
    torch.testing.assert_close(
        codec.decode(heatmaps.cuda())[0].cpu(), codec.decode(heatmaps)[0], atol=0.01, rtol=0
    )
