"""Keypoints as heatmaps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from cycledistill._checks import check_choice
from cycledistill_pose._checks import check_pair, check_shape
from cycledistill_pose.codecs._fit import fit_offset
from cycledistill_pose.codecs._flip import flip_heatmaps
from cycledistill_pose.codecs._labels import check_keypoints
from cycledistill_pose.codecs._refine import dark_offset, highest_pixel, quarter_offset, udp_offset

HeatmapMethod = Literal["dark", "fit", "msra", "udp"]


class HeatmapCodec:
    """Targets and decoding for networks that return a heatmap for each keypoint.

    >>> import torch
    >>> codec = HeatmapCodec(input_size=(192, 256), heatmap_size=(48, 64), sigma=2.0)
    >>> heatmaps, weights = codec.encode(torch.tensor([[[100.9, 77.7], [900.0, 0.0]]]))
    >>> heatmaps.shape, weights
    (torch.Size([1, 2, 64, 48]), tensor([[1., 0.]]))
    >>> keypoints, scores = codec.decode(heatmaps)
    >>> keypoints[0, 0].round(decimals=1)
    tensor([100.9000,  77.7000])

    A target is a Gaussian of height 1 around the keypoint. All methods draw it as the outer
    product of a row and a column, for the whole batch at once and on the keypoints' device.

    =========  ==================  ==========================================  =================
    method     input px / map px   target                                      decoding
    =========  ==================  ==========================================  =================
    `"dark"`   input / map         around the exact position, whole map        Newton step on
                                                                               the log of the
                                                                               blurred map
    `"fit"`    input / map         as for "dark"                               fit of a Gaussian
                                                                               of this sigma, right
                                                                               up to the border
    `"msra"`   input / map         around the nearest pixel, within 3 sigma    a quarter pixel
                                                                               to the higher
                                                                               neighbour
    `"udp"`    (input - 1) /       around the exact position, within 3 sigma   Newton step with
               (map - 1)           of the nearest pixel                        reflected borders
    =========  ==================  ==========================================  =================

    On clean targets, "dark" and "udp" are off by up to 1.1 and 2.0 px of the map within 5 px of its
    border, since the blur mixes in values from outside the map; "fit" is exact everywhere.

    A keypoint whose Gaussian (3 sigma to all sides) lies outside the map has an empty target of
    weight 0. A map without a positive value decodes to -1 map px on both axes. If 3 sigma is not an
    integer, the toolboxes' patches near the left and the upper border ("msra", "udp") are off by a
    pixel; here they are not.

    Sources: Xiao et al., "Simple Baselines for Human Pose Estimation and Tracking", ECCV 2018
    ("msra"); Zhang et al., "Distribution-Aware Coordinate Representation for Human Pose
    Estimation", CVPR 2020 ("dark"); Huang et al., "The Devil is in the Details", CVPR 2020
    ("udp").

    Args:
        input_size: (width, height) of the network's input in px.
        heatmap_size: (width, height) of the heatmaps in px.
        sigma: Standard deviation of the Gaussian in px of the map.
        method: "dark", "fit", "msra" or "udp".
        blur_kernel: Width in px, odd, of the blur before a Newton step; None chooses
            it by sigma: 11 for 2, 17 for 3.

    Raises:
        ValueError: An argument is not one of these or out of range.
    """

    def __init__(
        self,
        input_size: tuple[int, int] = (192, 256),
        heatmap_size: tuple[int, int] = (48, 64),
        sigma: float = 2.0,
        method: HeatmapMethod = "dark",
        blur_kernel: int | None = None,
    ) -> None:
        self.input_size = check_pair("input_size", input_size)
        self.heatmap_size = check_pair("heatmap_size", heatmap_size)
        check_choice("method", method, *get_args(HeatmapMethod))
        if not sigma > 0:
            raise ValueError(f"sigma: expected a positive number, got {sigma}")
        if blur_kernel is None:
            blur_kernel = 2 * int(2.67 * sigma) + 1
        if blur_kernel < 1 or blur_kernel % 2 == 0:
            raise ValueError(f"blur_kernel: expected an odd positive number, got {blur_kernel}")
        if method == "udp" and min(*self.input_size, *self.heatmap_size) < 2:
            raise ValueError(
                "method 'udp' needs sizes of at least 2, got "
                f"input_size {input_size} and heatmap_size {heatmap_size}"
            )
        self.sigma = float(sigma)
        self.method = method
        self.blur_kernel = int(blur_kernel)

    @property
    def udp_crops(self) -> bool:
        """Whether inputs are cropped for unbiased data processing (``crop_matrix``'s ``udp``)."""
        return self.method == "udp"

    def to_dict(self) -> dict[str, Any]:
        """The options that `codec_for` takes, beside the network's sizes."""
        return {"method": self.method, "sigma": self.sigma, "blur_kernel": self.blur_kernel}

    @property
    def stride(self) -> tuple[float, float]:
        """Input px in a heatmap px, on x and on y."""
        edge = 1 if self.method == "udp" else 0
        width, height = self.input_size
        map_width, map_height = self.heatmap_size
        return (width - edge) / (map_width - edge), (height - edge) / (map_height - edge)

    def encode(self, keypoints: Tensor, visible: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Target heatmaps and their weights.

        Args:
            keypoints: `[B, K, 2]`, (x, y) in px of the input. Not finite means not labelled.
            visible: `[B, K]`; 0 for keypoints without a label, more than 0 for others
                (above 1 counts as 1). None: all are labelled.

        Returns:
            Heatmaps `[B, K, H, W]` from 0 to 1 and weights `[B, K]`: the visibility, or 0 where
            the Gaussian is outside of the map. Maps of weight 0.5 or less are empty.

        Raises:
            ValueError: The shapes are not these.
        """
        points, weights = check_keypoints(keypoints, visible)
        centre = points / points.new_tensor(self.stride)
        reach = 3 * self.sigma
        whole_map = self.method in ("dark", "fit")
        if whole_map:
            first, end = centre - reach, centre + reach + 1
        else:
            pixel = (centre + 0.5).trunc()
            first, end = (pixel - reach).trunc(), (pixel + reach + 1).trunc()
            if self.method == "msra":
                centre = pixel
        size = points.new_tensor(self.heatmap_size)
        weights = weights * ~((first >= size) | (end < 0)).any(dim=-1)

        profiles = []
        for axis, length in enumerate(self.heatmap_size):
            pixels = torch.arange(length, device=points.device, dtype=points.dtype)
            distance = pixels - centre[..., axis, None]
            exponent = distance.square() * (-0.5 / self.sigma**2)
            # Factors below 1e-19 count as 0: products of two such are denormal numbers, which
            # are many times slower.
            profile = F.threshold(exponent.clamp(min=-44.0).exp(), 1e-19, 0.0)
            if not whole_map:
                within = (pixels >= first[..., axis, None]) & (pixels < end[..., axis, None])
                profile = profile * within
            profiles.append(profile)
        across, down = profiles
        down = down * (weights > 0.5)[..., None]
        return down[..., :, None] * across[..., None, :], weights

    @torch.no_grad()
    def decode(self, heatmaps: Tensor) -> tuple[Tensor, Tensor]:
        """Keypoints and scores from heatmaps.

        Args:
            heatmaps: `[B, K, H, W]`, targets or a network's output.

        Returns:
            Keypoints `[B, K, 2]`, (x, y) in px of the input, and scores `[B, K]`, the maxima of
            the maps.

        Raises:
            ValueError: Heatmaps are not of `heatmap_size`.
        """
        width, height = self.heatmap_size
        check_shape("heatmaps", heatmaps, "B K H W", H=height, W=width)
        if heatmaps.dtype != torch.float64:
            heatmaps = heatmaps.float()
        maps = heatmaps.flatten(0, 1)
        x, y, maxima = highest_pixel(maps)
        pixel = torch.stack((x, y), dim=-1).to(maps)
        with torch.autocast(maps.device.type, enabled=False):
            if self.method == "dark":
                pixel += dark_offset(maps, x, y, maxima, self.blur_kernel)
            elif self.method == "udp":
                pixel += udp_offset(maps, x, y, maxima, self.blur_kernel)
            elif self.method == "fit":
                pixel += fit_offset(maps, x, y, maxima, self.sigma)
            else:
                pixel += quarter_offset(maps, x, y)
        pixel = torch.where((maxima > 0)[:, None], pixel, -1.0)
        keypoints = pixel * pixel.new_tensor(self.stride)
        return keypoints.view(*heatmaps.shape[:2], 2), maxima.view(heatmaps.shape[:2])

    def flip(self, heatmaps: Tensor, flip_indices: Sequence[int]) -> Tensor:
        """Heatmaps `[B, K, H, W]` for the mirrored input as heatmaps for the input itself.

        This is `flip_heatmaps`, with the one-pixel shift unless the method is "udp".
        """
        return flip_heatmaps(heatmaps, flip_indices, shift=self.method != "udp")

    def average(self, heatmaps: Tensor, flipped: Tensor) -> Tensor:
        """The heatmaps of the flip test: the mean of both, `flipped` brought back by `flip`.

        Args:
            heatmaps: `[B, K, H, W]`, for the input itself.
            flipped: `[B, K, H, W]`.

        Raises:
            ValueError: The shapes differ.
        """
        check_shape("flipped", flipped, "B K H W", **check_shape("heatmaps", heatmaps, "B K H W"))
        return (heatmaps + flipped) / 2

    def __repr__(self) -> str:
        return (
            f"HeatmapCodec(input_size={self.input_size}, heatmap_size={self.heatmap_size}, "
            f"sigma={self.sigma}, method={self.method!r}, blur_kernel={self.blur_kernel})"
        )
