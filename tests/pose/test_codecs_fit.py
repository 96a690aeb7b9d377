"""The decoding that is right up to the border of the map."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import least_squares
from torch import Tensor

from cycledistill_pose import HeatmapCodec

# (width, height) of the map and sigma of the targets; the last map is smaller than the window.
SIZES = [((48, 64), 2.0), ((72, 96), 3.0), ((16, 16), 1.5), ((12, 16), 1.0), ((6, 5), 2.0)]


def codec_of(size: tuple[int, int], sigma: float, method: str = "fit") -> HeatmapCodec:
    return HeatmapCodec((4 * size[0], 4 * size[1]), size, sigma, method)  # type: ignore[arg-type]


def anywhere(size: tuple[int, int], count: int) -> Tensor:
    """Points `[1, count, 2]` in px of the input, half of them near the border of the map."""
    points = torch.rand(count, 2) * torch.tensor(size)
    near = torch.rand(count, 2) * 5
    near = torch.where(torch.rand(count, 2) < 0.5, near, torch.tensor(size) - near)
    points[::2] = torch.where(torch.rand(count // 2, 2) < 0.5, near[::2], points[::2])
    return 4 * points.clamp(min=0)[None]


def errors(codec: HeatmapCodec, heatmaps: Tensor, points: Tensor) -> Tensor:
    """Distances in px of the map."""
    return (codec.decode(heatmaps)[0] - points).norm(dim=-1)[0] / 4


@pytest.mark.parametrize(("size", "sigma"), SIZES)
@pytest.mark.parametrize("height", [1e-6, 1.0, 1e6])
def test_clean_targets_come_back_from_any_place(
    size: tuple[int, int], sigma: float, height: float
) -> None:
    codec, points = codec_of(size, sigma), anywhere(size, 400)
    assert errors(codec, height * codec.encode(points)[0], points).max() < 0.01
    dark = codec_of(size, sigma, "dark")
    assert errors(dark, dark.encode(points)[0], points).max() > 1


def test_targets_just_outside_of_the_map_come_back() -> None:
    codec = codec_of((48, 64), 2.0)
    points = torch.tensor([[[-3.0, 100.0], [100.0, -2.0], [191.0, 255.0], [-3.5, -3.5]]])
    assert errors(codec, codec.encode(points)[0], points).max() < 0.01
    far = torch.tensor([[[-12.0, 100.0]]])
    found, _ = codec.decode(codec.encode(far)[0])
    torch.testing.assert_close(found, torch.tensor([[[-4.0, 100.0]]]), atol=0.05, rtol=0)


@pytest.mark.parametrize(("size", "sigma"), SIZES[:4])
@pytest.mark.parametrize("noise", [0.02, 0.05, 0.1])
def test_noise_costs_less_than_with_dark(size: tuple[int, int], sigma: float, noise: float) -> None:
    """Far from the border both are about as good as can be; near it only the fit is."""
    fit, dark = codec_of(size, sigma), codec_of(size, sigma, "dark")
    points = anywhere(size, 1000)
    noisy = fit.encode(points)[0]
    noisy = noisy + noise * torch.randn_like(noisy)
    new, old = errors(fit, noisy, points), errors(dark, noisy, points)
    assert new.square().mean().sqrt() < 0.6 * old.square().mean().sqrt()
    border = torch.tensor(size) - 1
    inner = ((points[0] / 4 > 5) & (points[0] / 4 < border - 5)).all(-1)
    if inner.sum() > 100:
        assert new[inner].mean() < 1.01 * old[inner].mean()


def slow_fit(heatmap: np.ndarray, sigma: float) -> list[float]:
    """The least squares by SciPy, over the pixels within 3 sigma of the highest one."""
    row, column = np.unravel_index(heatmap.argmax(), heatmap.shape)
    y, x = np.mgrid[: heatmap.shape[0], : heatmap.shape[1]]
    reach = int(3 * sigma)
    near = (abs(x - column) <= reach) & (abs(y - row) <= reach)

    def difference(guess: np.ndarray) -> np.ndarray:
        squared = (x[near] - guess[0]) ** 2 + (y[near] - guess[1]) ** 2
        return guess[2] * np.exp(-0.5 * squared / sigma**2) - heatmap[near]

    start = np.array([column, row, heatmap[row, column]], float)
    return least_squares(difference, start, xtol=1e-12, ftol=1e-12).x[:2].tolist()


@pytest.mark.parametrize(("size", "sigma"), SIZES[1:4])
def test_it_is_the_least_squares_fit(size: tuple[int, int], sigma: float) -> None:
    codec, points = codec_of(size, sigma), anywhere(size, 30)
    maps = codec.encode(points.double())[0]
    maps = maps + 0.05 * torch.randn_like(maps)
    found = codec.decode(maps)[0][0] / 4
    expected = torch.tensor([slow_fit(heatmap, sigma) for heatmap in maps[0].numpy()])
    inside = ((expected > -1) & (expected < torch.tensor(size))).all(-1)
    assert inside.sum() > 20
    torch.testing.assert_close(found[inside].float(), expected[inside].float(), atol=2e-3, rtol=0)


def odd_maps() -> dict[str, Tensor]:
    y, x = torch.meshgrid(torch.arange(16.0), torch.arange(12.0), indexing="ij")
    ridge = torch.exp(-0.5 * (x - 5.3) ** 2)
    spike = torch.zeros(16, 12)
    spike[7, 4] = 1.0
    blob = torch.exp(-0.5 * ((x - 5) ** 2 + (y - 7) ** 2))
    holes = blob.clone()
    holes[6, 4], holes[0, 0] = float("nan"), 0.5
    endless = blob.clone()
    endless[6, 4] = float("-inf")
    return {
        "flat": torch.full((16, 12), 0.3),
        "ridge": ridge,
        "spike": spike,
        "checks": ((x + y) % 2).float(),
        "negative surroundings": blob - 0.4,
        "two peaks": blob + torch.exp(-0.5 * ((x - 7) ** 2 + (y - 7) ** 2)),
        "tiny": blob * 1e-38,
        "huge": blob * 1e37,
        "deep": blob - 1e30 * (blob < 0.5),
        "NaN": holes,
        "infinite": endless,
        "noise": torch.randn(16, 12),
    }


@pytest.mark.parametrize("name", odd_maps())
def test_odd_maps_stay_near_their_highest_pixel(name: str) -> None:
    heatmap = odd_maps()[name]
    found, scores = codec_of((12, 16), 1.0).decode(heatmap[None, None])
    place = found[0, 0] / 4
    assert place.isfinite().all()
    if name == "NaN":
        assert place.tolist() == [-1, -1] and scores.isnan()
        return
    highest = heatmap.argmax()
    distance = place - torch.tensor([highest % 12, highest // 12])
    assert distance.abs().max() < 2.6
    assert (place >= -1).all() and (place <= torch.tensor([12, 16])).all()
    if name in ("tiny", "huge", "negative surroundings", "deep", "infinite"):
        assert distance.abs().max() < 0.2


def test_maps_of_one_row_or_one_pixel() -> None:
    codec = codec_of((20, 1), 2.0)
    points = torch.tensor([[[4 * 7.3, 0.0], [4 * 0.4, 0.0]]])
    torch.testing.assert_close(codec.decode(codec.encode(points)[0])[0], points, atol=0.01, rtol=0)
    found, _ = codec_of((1, 1), 2.0).decode(torch.ones(1, 1, 1, 1))
    assert found.tolist() == [[[0, 0]]]


def test_types_of_numbers() -> None:
    codec = codec_of((12, 16), 1.0)
    heatmaps = codec.encode(anywhere((12, 16), 50))[0]
    keypoints, _ = codec.decode(heatmaps)
    assert codec.decode(heatmaps.double())[0].dtype == torch.float64
    torch.testing.assert_close(
        codec.decode(heatmaps.double())[0].float(), keypoints, atol=1e-3, rtol=0
    )
    half, _ = codec.decode(heatmaps.half())
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, keypoints, atol=0.05, rtol=0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(codec.decode(heatmaps)[0], keypoints)
    assert codec.decode(heatmaps[:0])[0].shape == (0, 50, 2)


def test_a_person_does_not_depend_on_who_else_is_in_the_batch() -> None:
    torch.manual_seed(0)
    codec = HeatmapCodec((96, 128), (24, 32), 2.0, "fit")
    maps = torch.rand(8, 17, 32, 24)
    together = codec.decode(maps)[0]
    for size in (1, 3):
        parts = [codec.decode(maps[start : start + size])[0] for start in range(0, 8, size)]
        assert torch.equal(torch.cat(parts), together)
