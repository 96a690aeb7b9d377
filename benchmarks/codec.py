"""The codec over the same written keypoint by keypoint in numpy and OpenCV."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import cv2
import numpy as np
import torch

from benchmarks._frame import Row, in_turn, ratio
from cycledistill_pose import HeatmapCodec

Draw = Callable[[np.ndarray, np.ndarray, float, float], np.ndarray]
BATCH, KEYPOINTS, WIDTH, HEIGHT, STRIDE, SIGMA, KERNEL = 64, 17, 48, 64, 4, 2.0, 11


def measure(rounds: int, device: str = "cpu") -> Iterator[Row]:
    codec = HeatmapCodec((STRIDE * WIDTH, STRIDE * HEIGHT), (WIDTH, HEIGHT), SIGMA, "dark", KERNEL)
    keypoints = torch.rand(BATCH, KEYPOINTS, 2) * torch.tensor([STRIDE * WIDTH, STRIDE * HEIGHT])
    keypoints[0, 0] = -500.0  # one that no map shows
    targets, weights = codec.encode(keypoints)
    for draw in (draw_whole, draw_outer):
        drawn, drawn_weights = draw_all(keypoints.numpy(), draw)
        assert np.abs(drawn - targets.numpy()).max() < 1e-5
        assert np.array_equal(drawn_weights, weights.numpy())
    maps = (0.8 * targets + 0.02 * torch.randn_like(targets)).clamp(min=0)  # as a network's
    maps[0, 0] = 0.0
    points, scores = codec.decode(maps)
    decoded, decoded_scores = decode_all(maps.numpy())
    assert np.abs(decoded - points.numpy()).max() < 1e-2  # px of the image
    assert np.array_equal(decoded_scores, scores.numpy())

    kinds: dict[str, tuple[Callable[[], object], Callable[[], object], float | None]] = {
        "DARK decoding: numpy and OpenCV": (
            lambda: decode_all(maps.numpy()),
            lambda: codec.decode(maps),
            10.0,
        ),
        "targets: numpy, exp over the map": (
            lambda: draw_all(keypoints.numpy(), draw_whole),
            lambda: codec.encode(keypoints),
            10.0,
        ),
        "targets: numpy, row times column": (
            lambda: draw_all(keypoints.numpy(), draw_outer),
            lambda: codec.encode(keypoints),
            None,
        ),
    }
    for name, (reference, ours, target) in kinds.items():
        taken = in_turn({"ours": ours, "reference": reference}, rounds)
        values = ratio(taken["reference"], taken["ours"])
        yield Row.of(f"{BATCH} x {KEYPOINTS} maps, {name} / ours", values, "", target, True)


def decode_all(heatmaps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Keypoints `[B, K, 2]` in px of the image and scores `[B, K]` of heatmaps `[B, K, H, W]`."""
    found = [decode_one(heatmap) for sample in heatmaps for heatmap in sample]
    keypoints = np.array([STRIDE * point for point, _ in found], np.float32)
    scores = np.array([score for _, score in found], np.float32)
    return keypoints.reshape(*heatmaps.shape[:2], 2), scores.reshape(heatmaps.shape[:2])


def decode_one(heatmap: np.ndarray) -> tuple[np.ndarray, float]:
    """Position in px of the map, and height, of the maximum of one map `[H, W]`."""
    y, x = divmod(int(heatmap.argmax()), WIDTH)
    highest = heatmap[y, x]
    if highest <= 0:
        return np.array([-1.0, -1.0]), highest
    point = np.array([x, y], dtype=np.float64)
    if 1 < x < WIDTH - 2 and 1 < y < HEIGHT - 2:
        blurred = cv2.GaussianBlur(heatmap, (KERNEL, KERNEL), 0, borderType=cv2.BORDER_CONSTANT)
        patch = blurred[y - 2 : y + 3, x - 2 : x + 3] * (highest / blurred.max())
        # Few numbers: Python's own arithmetic is faster than numpy's.
        p = np.log(np.maximum(patch, 1e-10)).tolist()
        gx, gy = 0.5 * (p[2][3] - p[2][1]), 0.5 * (p[3][2] - p[1][2])
        dxx = 0.25 * (p[2][4] - 2 * p[2][2] + p[2][0])
        dyy = 0.25 * (p[4][2] - 2 * p[2][2] + p[0][2])
        dxy = 0.25 * (p[3][3] - p[1][3] - p[3][1] + p[1][1])
        determinant = dxx * dyy - dxy * dxy
        if determinant != 0:
            point[0] += (dxy * gy - dyy * gx) / determinant
            point[1] += (dxy * gx - dxx * gy) / determinant
    return point, highest


def draw_all(keypoints: np.ndarray, draw: Draw) -> tuple[np.ndarray, np.ndarray]:
    """Targets `[B, K, H, W]` and weights `[B, K]` of keypoints `[B, K, 2]` in px of the image."""
    heatmaps = np.zeros((*keypoints.shape[:2], HEIGHT, WIDTH), dtype=np.float32)
    weights = np.zeros(keypoints.shape[:2], dtype=np.float32)
    columns = np.arange(WIDTH, dtype=np.float32)
    rows = np.arange(HEIGHT, dtype=np.float32)[:, None]
    reach = 3 * SIGMA
    for place in np.ndindex(*weights.shape):
        x, y = (keypoints[place] / STRIDE).tolist()
        if -reach - 1 <= x < WIDTH + reach and -reach - 1 <= y < HEIGHT + reach:
            weights[place] = 1.0
            heatmaps[place] = draw(columns, rows, x, y)
    return heatmaps, weights


def draw_whole(columns: np.ndarray, rows: np.ndarray, x: float, y: float) -> np.ndarray:
    """The Gaussian as toolboxes draw it: an exponential for each pixel."""
    return np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * SIGMA**2))


def draw_outer(columns: np.ndarray, rows: np.ndarray, x: float, y: float) -> np.ndarray:
    """The Gaussian as the product of a row and a column, as we draw it."""
    down, across = (rows - y) ** 2, (columns - x) ** 2
    return np.exp(down / (-2 * SIGMA**2)) * np.exp(across / (-2 * SIGMA**2))
