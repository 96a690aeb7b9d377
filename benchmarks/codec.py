"""The codec over the same written keypoint by keypoint in numpy and OpenCV."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import torch

from benchmarks.comparison import Comparison, compare
from cycledistill_pose import HeatmapCodec

Draw = Callable[[np.ndarray, np.ndarray, np.ndarray, float, float], None]
BATCH, KEYPOINTS, WIDTH, HEIGHT, STRIDE, SIGMA, KERNEL = 64, 17, 48, 64, 4, 2.0, 11


def measure(rounds: int) -> list[Comparison]:
    threads = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    try:
        return _measure(rounds)
    finally:
        torch.set_num_threads(threads[0])
        cv2.setNumThreads(threads[1])


def _measure(rounds: int) -> list[Comparison]:
    codec = HeatmapCodec((STRIDE * WIDTH, STRIDE * HEIGHT), (WIDTH, HEIGHT), SIGMA, "dark", KERNEL)
    generator = torch.Generator().manual_seed(0)
    size = torch.tensor([STRIDE * WIDTH, STRIDE * HEIGHT])
    keypoints = torch.rand(BATCH, KEYPOINTS, 2, generator=generator) * size
    keypoints[0, 0] = -500.0  # one that no map shows
    in_numpy = keypoints.numpy()

    targets, weights = codec.encode(keypoints)
    for draw in (draw_whole, draw_outer):
        drawn, drawn_weights = draw_all(in_numpy, draw)
        assert np.abs(drawn - targets.numpy()).max() < 1e-5
        assert np.array_equal(drawn_weights, weights.numpy())

    noise = torch.randn(targets.shape, generator=generator)
    maps = (0.8 * targets + 0.02 * noise).clamp(min=0)  # as a trained network's
    maps[0, 0] = 0.0
    maps_in_numpy = maps.numpy()
    points, scores = codec.decode(maps)
    decoded, decoded_scores = decode_all(maps_in_numpy)
    assert np.abs(decoded - points.numpy()).max() < 1e-2  # px of the image
    assert np.array_equal(decoded_scores, scores.numpy())

    what = f"{BATCH} x {KEYPOINTS} maps, one thread"
    note = "one keypoint after the other"
    return [
        compare(
            f"DARK decoding of {what}: numpy and OpenCV / ours",
            lambda: codec.decode(maps),
            lambda: decode_all(maps_in_numpy),
            rounds,
            limit=10.0,
            note=note,
            speed_up=True,
        ),
        compare(
            f"targets of {what}: numpy, exp over the map / ours",
            lambda: codec.encode(keypoints),
            lambda: draw_all(in_numpy, draw_whole),
            rounds,
            limit=10.0,
            note=note,
            speed_up=True,
        ),
        compare(
            f"targets of {what}: numpy, row times column / ours",
            lambda: codec.encode(keypoints),
            lambda: draw_all(in_numpy, draw_outer),
            rounds,
            speed_up=True,
        ),
    ]


def decode_all(heatmaps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Keypoints `[B, K, 2]` in px of the image and scores `[B, K]` of heatmaps `[B, K, H, W]`."""
    keypoints = np.empty((*heatmaps.shape[:2], 2), dtype=np.float32)
    scores = np.empty(heatmaps.shape[:2], dtype=np.float32)
    for sample in range(len(heatmaps)):
        for k in range(heatmaps.shape[1]):
            point, scores[sample, k] = decode_one(heatmaps[sample, k])
            keypoints[sample, k] = STRIDE * point
    return keypoints, scores


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
    rows = np.arange(HEIGHT, dtype=np.float32)
    reach = 3 * SIGMA
    for sample in range(len(keypoints)):
        for k in range(keypoints.shape[1]):
            x, y = (keypoints[sample, k] / STRIDE).tolist()
            if -reach - 1 <= x < WIDTH + reach and -reach - 1 <= y < HEIGHT + reach:
                weights[sample, k] = 1.0
                draw(heatmaps[sample, k], columns, rows, x, y)
    return heatmaps, weights


def draw_whole(
    heatmap: np.ndarray, columns: np.ndarray, rows: np.ndarray, x: float, y: float
) -> None:
    """The Gaussian as the toolboxes in use draw it: an exponential for each pixel."""
    squares = (columns - x) ** 2 + (rows[:, None] - y) ** 2
    heatmap[:] = np.exp(-squares / (2 * SIGMA**2))


def draw_outer(
    heatmap: np.ndarray, columns: np.ndarray, rows: np.ndarray, x: float, y: float
) -> None:
    """The Gaussian as the product of a row and a column, as we draw it."""
    across = np.exp((columns - x) ** 2 / (-2 * SIGMA**2))
    down = np.exp((rows - y) ** 2 / (-2 * SIGMA**2))
    np.multiply(down[:, None], across, out=heatmap)
