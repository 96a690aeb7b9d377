"""The position of a heatmap's peak by a least-squares fit, right up to the border of the map."""

from __future__ import annotations

import torch
from torch import Tensor

from cycledistill_pose.codecs._refine import window_around

_STEPS = 5
_DAMPING = 1e-3  # of Levenberg and Marquardt: for maps of a single row, which say nothing of y


def fit_offset(heatmaps: Tensor, x: Tensor, y: Tensor, maxima: Tensor, sigma: float) -> Tensor:
    """Fit a Gaussian of known width to the pixels around the maximum ("fit").

    Centre c and height a of a exp(-|p - c|^2 / (2 sigma^2)) make the sum of squared differences
    from the map least, over the pixels p within 3 sigma of the highest one that lie in the map.
    With noise of equal strength on all pixels this is the likeliest centre. There is no blur and no
    logarithm, so borders and negative values do no harm.

    Five Gauss-Newton steps from the highest pixel: with g the Gaussian of height 1 around the
    present centre, u and v the distances from it in sigmas, the map is fitted by
    g (a + b u + c v), and the centre moves by sigma (b / a, c / a). The Gaussian is a product of
    a row and a column, and so are all sums of the normal equations.

    Args:
        heatmaps: `[N, H, W]`.
        x: `[N]` columns of the maxima.
        y: `[N]` rows of the maxima.
        maxima: `[N]` their values.
        sigma: Standard deviation of the targets in px of the map.

    Returns:
        `[N, 2]` offsets of x and y in px of the map; the position is at most one pixel outside of
        the outermost ones. 0 where the pixels are not finite.
    """
    height, width = heatmaps.shape[-2:]
    reach = max(1, int(3 * sigma))
    window, rows, columns = window_around(heatmaps, x, y, reach)
    # In double precision, so that a person's keypoints do not depend, in their last bits, on who
    # else is in the batch: vectorised exponentials differ from scalar ones.
    wide = window.dtype if window.device.type == "mps" else torch.float64
    window = window.to(wide) / torch.where(maxima > 0, maxima, 1.0).to(wide)
    # Distances from the highest pixel in sigmas, and weights that are 0 outside of the map.
    steps = torch.arange(-reach, reach + 1, device=x.device).to(window)[:, None] / sigma
    in_x = ((columns >= 0) & (columns < width)).to(window)
    in_y = ((rows >= 0) & (rows < height)).to(window)
    place = torch.stack((x, y)).to(window)
    size = place.new_tensor([[width], [height]])
    lowest, highest = (-1 - place) / sigma, (size - place) / sigma
    centre = torch.zeros_like(place)
    for _ in range(_STEPS):
        u, v = steps - centre[0], steps - centre[1]
        gx, gy = in_x * (-0.5 * u * u).exp(), in_y * (-0.5 * v * v).exp()
        lines = (window * gx).sum(dim=1)
        h0, hv = (lines * gy).sum(dim=0), (lines * gy * v).sum(dim=0)
        hu = ((window * (gx * u)).sum(dim=1) * gy).sum(dim=0)
        x0, x1, x2 = _moments(gx, u)
        y0, y1, y2 = _moments(gy, v)
        damping = _DAMPING * x0 * y0
        a, b, c = _solve(
            (x0 * y0, x1 * y0, x0 * y1), (x2 * y0 + damping, x1 * y1), x0 * y2 + damping, h0, hu, hv
        )
        step = torch.stack((b, c)) / a
        step = torch.where((a > 0) & step.isfinite(), step, 0.0).clamp(-0.5, 0.5)
        centre = torch.minimum(torch.maximum(centre + step, lowest), highest)
    return (sigma * centre.t()).to(heatmaps.dtype)


def _moments(profile: Tensor, distance: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    weight = profile * profile
    first = weight * distance
    return weight.sum(dim=0), first.sum(dim=0), (first * distance).sum(dim=0)


def _solve(
    row: tuple[Tensor, Tensor, Tensor],
    second: tuple[Tensor, Tensor],
    last: Tensor,
    p: Tensor,
    q: Tensor,
    r: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Solutions, up to a common positive factor, of symmetric positive definite 3 x 3 systems.

    Written out: ONNX has no batched solver, and for three unknowns it would not pay.
    """
    (a, b, c), (d, e), f = row, second, last
    bc = c * e - b * f
    cb = b * e - c * d
    cc = b * c - a * e
    return (
        (d * f - e * e) * p + bc * q + cb * r,
        bc * p + (a * f - c * c) * q + cc * r,
        cb * p + cc * q + (a * d - b * b) * r,
    )
