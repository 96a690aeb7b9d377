"""From the highest pixel of a heatmap to a position between pixels.

Heatmaps are `[N, H, W]`; x, y and maxima `[N]` are columns, rows and values of the highest pixels,
``kernel`` is the odd width of a blur in px. Offsets `[N, 2]` of x and y are in px of the map.
"""

from __future__ import annotations

import functools

import cv2
import torch
import torch.nn.functional as F
from torch import Tensor

# Floors and ceiling before the logarithm is taken.
_DARK_FLOOR = 1e-10
_UDP_RANGE = (1e-3, 50.0)


def highest_pixel(heatmaps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Column, row (int64) and value of each map's maximum, the first in reading order."""
    count, height, width = heatmaps.shape
    flat = heatmaps.reshape(count, height * width)
    if _on_cpu(flat):
        # Several times as fast as torch.
        place = torch.from_numpy(flat.detach().numpy().argmax(axis=1))
        values = flat.gather(1, place[:, None])[:, 0]
    else:
        # A maximum without its index is several times faster: find the strip of rows first.
        rows = next(rows for rows in range(8, 0, -1) if height % rows == 0)
        strips = flat.view(count, height // rows, rows * width)
        values, strip = strips.amax(dim=-1).max(dim=-1)
        place = strips[torch.arange(count, device=strip.device), strip].argmax(dim=-1)
        place = place + strip * (rows * width)
    return place % width, place.div(width, rounding_mode="floor"), values


def quarter_offset(heatmaps: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """A quarter of a pixel towards the higher neighbour on each axis ("msra").

    0 where the maximum is in the first two or in the last row or column.
    """
    height, width = heatmaps.shape[-2:]
    inside = (x > 1) & (x < width - 1) & (y > 1) & (y < height - 1)
    maps = heatmaps.flatten(1)
    centre = torch.where(inside, y * width + x, 0)
    around = centre[:, None] + centre.new_tensor([1, -1, width, -width])
    right, left, below, above = maps.gather(1, around * inside[:, None]).unbind(dim=1)
    slope = torch.stack((right - left, below - above), dim=-1)
    return 0.25 * slope.sign() * inside[:, None]


def dark_offset(heatmaps: Tensor, x: Tensor, y: Tensor, maxima: Tensor, kernel: int) -> Tensor:
    """One Newton step on the logarithm of the blurred map ("dark").

    Zhang et al., "Distribution-Aware Coordinate Representation for Human Pose Estimation",
    CVPR 2020, equations 3 to 9: the map is blurred (zeros outside of it), rescaled to its former
    maximum, floored at 1e-10 and its logarithm expanded to the second order around the highest
    pixel m: offset = -H(m)^-1 g(m), with differences over two pixels.

    Only the 5x5 pixels around the maximum are ever blurred, from the pixels that reach them. The
    rescaling is a constant in the logarithm and so without effect, except where one of these
    pixels meets the floor: such maps alone are blurred as a whole.

    0 where the maximum is one of the outermost two pixels or where the Hessian has no inverse.
    """
    height, width = heatmaps.shape[-2:]
    weights = blur_weights(kernel)
    inside = (x > 1) & (x < width - 2) & (y > 1) & (y < height - 2)

    window, rows, columns = window_around(heatmaps, x, y, kernel // 2 + 2)
    window = window.where((columns >= 0) & (columns < width), 0.0)
    lines = _blur_along(window, weights, 1).where(((rows >= 0) & (rows < height))[:, None], 0.0)
    patch = _sum_mirrored(lines, weights, 0)

    floored = inside & (patch.amin(dim=(0, 1)) <= _DARK_FLOOR)
    if torch.compiler.is_compiling():  # a graph has no branches: every map is blurred
        scale = maxima / _blur_map(heatmaps, weights).amax(dim=(1, 2))
        patch = torch.where(floored, patch * scale, patch)
    elif bool(floored.any()):
        blurred = _blur_map(heatmaps[floored], weights)
        patch[..., floored] *= maxima[floored] / blurred.amax(dim=(1, 2))
    p = patch.clamp(min=_DARK_FLOOR).log()

    gradient = 0.5 * torch.stack((p[2, 3] - p[2, 1], p[3, 2] - p[1, 2]), dim=-1)
    dxx = 0.25 * (p[2, 4] - 2 * p[2, 2] + p[2, 0])
    dyy = 0.25 * (p[4, 2] - 2 * p[2, 2] + p[0, 2])
    dxy = 0.25 * (p[3, 3] - p[1, 3] - p[3, 1] + p[1, 1])
    return _newton_step(gradient, dxx, dxy, dyy) * inside[:, None]


def udp_offset(heatmaps: Tensor, x: Tensor, y: Tensor, maxima: Tensor, kernel: int) -> Tensor:
    """One Newton step on the logarithm of the blurred map, at any place of it ("udp").

    Huang et al., "The Devil is in the Details: Delving into Unbiased Data Processing for Human
    Pose Estimation", CVPR 2020. It differs from `dark_offset`: the map is mirrored about its
    outermost pixels for the blur and not rescaled, values are held between 0.001 and 50,
    differences are over one pixel, and beyond the border the outermost pixel counts again. 0 where
    the maximum is not positive.
    """
    height, width = heatmaps.shape[-2:]
    weights = blur_weights(kernel)

    reach = kernel // 2 + 1
    steps = torch.arange(-reach, reach + 1, device=x.device)
    rows, columns = _mirror(y[:, None] + steps, height), _mirror(x[:, None] + steps, width)
    patch = _blur_window(_take(heatmaps, rows, columns), weights)

    near = torch.arange(-1, 2, device=x.device)
    rows = (y[:, None] + near).clamp(0, height - 1) - y[:, None] + 1
    columns = (x[:, None] + near).clamp(0, width - 1) - x[:, None] + 1
    p = _take(patch, rows, columns).clamp(*_UDP_RANGE).log()

    gradient = 0.5 * torch.stack((p[:, 1, 2] - p[:, 1, 0], p[:, 2, 1] - p[:, 0, 1]), dim=-1)
    dxx = p[:, 1, 2] - 2 * p[:, 1, 1] + p[:, 1, 0]
    dyy = p[:, 2, 1] - 2 * p[:, 1, 1] + p[:, 0, 1]
    dxy = 0.5 * (
        p[:, 2, 2] - p[:, 1, 2] - p[:, 2, 1] + 2 * p[:, 1, 1] - p[:, 1, 0] - p[:, 0, 1] + p[:, 0, 0]
    )
    # A flat neighbourhood has no curvature; this keeps its step at 0.
    epsilon = torch.finfo(torch.float32).eps
    return _newton_step(gradient, dxx + epsilon, dxy, dyy + epsilon) * (maxima > 0)[:, None]


@functools.cache
def blur_weights(kernel: int) -> tuple[float, ...]:
    """The `kernel` weights of a Gaussian blur of this width, as OpenCV chooses them.

    For widths above 7 the standard deviation is 0.3 ((kernel - 1) / 2 - 1) + 0.8: 2 for a width
    of 11 and 2.9 for 17.
    """
    return tuple(cv2.getGaussianKernel(kernel, 0, ktype=cv2.CV_64F)[:, 0].tolist())


def _on_cpu(tensor: Tensor) -> bool:
    """Whether the operation runs eagerly on the CPU."""
    in_graph = torch.compiler.is_compiling() or torch.jit.is_tracing()  # type: ignore[attr-defined]
    return tensor.device.type == "cpu" and not in_graph


def window_around(
    heatmaps: Tensor, x: Tensor, y: Tensor, reach: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Squares of pixels `[R, R, N]` up to ``reach`` from a pixel, their rows and columns `[R, N]`.

    Pixels beyond the border have arbitrary values. Maps come last, so that sums over pixels run
    over contiguous memory.
    """
    steps = torch.arange(-reach, reach + 1, device=x.device)[:, None]
    columns, rows = x + steps, y + steps
    return _windows(heatmaps, rows, columns), rows, columns


def _windows(heatmaps: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    count, height, width = heatmaps.shape
    size = len(rows)

    def by_pixel(maps: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        return _take(maps, rows.t().clamp(0, height - 1), columns.t().clamp(0, width - 1))

    if not _on_cpu(heatmaps) or heatmaps.numel() < size:
        return by_pixel(heatmaps, rows, columns).permute(1, 2, 0)
    # Whole lines are copied several times as fast. Those that would begin before the first pixel
    # of all or end behind the last one belong to the outer maps.
    pixels = heatmaps.flatten()
    lines = pixels.as_strided((len(pixels) - size + 1, size), (1, 1))
    first = ((torch.arange(count) * height + rows) * width + columns[0]).t().flatten()
    window = lines.index_select(0, first.clamp_(0, len(lines) - 1)).view(count, size, size)
    outer = [0, count - 1]
    window[outer] = by_pixel(heatmaps[outer], rows[:, outer], columns[:, outer])
    return window.view(count, size**2).t().contiguous().view(size, size, count)


def _take(maps: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """`maps[n, rows[n, i], columns[n, j]]` as `[N, I, J]`."""
    indices = rows[:, :, None] * maps.shape[-1] + columns[:, None, :]
    return maps.flatten(1).gather(1, indices.flatten(1)).view(indices.shape)


def _blur_window(window: Tensor, weights: tuple[float, ...]) -> Tensor:
    """The blur of those pixels of `[N, R, C]` whose whole neighbourhood is in the window.

    Sums are taken in the order in which OpenCV takes and rounds them: along rows tap by tap (for
    widths up to 5 as along columns), along columns from the middle tap outwards and two mirrored
    taps at once. Where a map is almost flat, the logarithm's second differences are little more
    than such rounding, and the Newton step shows it.
    """
    return _sum_mirrored(_blur_along(window, weights, 2), weights, 1)


def _blur_along(window: Tensor, weights: tuple[float, ...], dim: int) -> Tensor:
    # No convolution or matrix product: on a GPU either may be rounded to TF32.
    across = _sum_mirrored if len(weights) <= 5 else _sum_in_turn
    return across(window, weights, dim)


def _sum_in_turn(window: Tensor, weights: tuple[float, ...], dim: int) -> Tensor:
    size = window.shape[dim] - len(weights) + 1
    total = window.narrow(dim, 0, size) * weights[0]
    for tap, weight in enumerate(weights[1:], start=1):
        total.add_(window.narrow(dim, tap, size), alpha=weight)
    return total


def _sum_mirrored(window: Tensor, weights: tuple[float, ...], dim: int) -> Tensor:
    size, middle = window.shape[dim] - len(weights) + 1, len(weights) // 2
    total = window.narrow(dim, middle, size) * weights[middle]
    for step in range(1, middle + 1):
        before = window.narrow(dim, middle - step, size)
        behind = window.narrow(dim, middle + step, size)
        total.add_(before + behind, alpha=weights[middle + step])
    return total


def _blur_map(heatmaps: Tensor, weights: tuple[float, ...]) -> Tensor:
    """The blur of whole maps `[N, H, W]`, with zeros around them."""
    margin = len(weights) // 2
    return _blur_window(F.pad(heatmaps, (margin, margin, margin, margin)), weights)


def _mirror(indices: Tensor, size: int) -> Tensor:
    """Indices beyond 0..size-1 as those of their mirror images about the outermost pixels."""
    period = max(2 * (size - 1), 1)
    wrapped = indices.remainder(period)
    return torch.minimum(wrapped, period - wrapped).clamp(max=size - 1)


def _newton_step(gradient: Tensor, dxx: Tensor, dxy: Tensor, dyy: Tensor) -> Tensor:
    """`-H^-1 g` for symmetric 2x2 H; 0 where H has no inverse."""
    gx, gy = gradient.unbind(dim=-1)
    determinant = dxx * dyy - dxy * dxy
    step = torch.stack((dxy * gy - dyy * gx, dxy * gx - dxx * gy), dim=-1)
    step = step / determinant[:, None]
    return torch.where(step.isfinite(), step, 0.0)
