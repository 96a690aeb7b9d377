"""Random crops for training people."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from cycledistill_pose.annotations._values import FloatArray
from cycledistill_pose.skeletons import Skeleton


class CropChange(NamedTuple):
    """Arguments of ``crop_matrix`` from one draw of `PoseAugmentation`."""

    box_xyxy: FloatArray
    padding: float
    shift: FloatArray
    scale: float
    rotation_degrees: float
    flip: bool


@dataclass(frozen=True)
class PoseAugmentation:
    """Random shift, half body, rotation, scale and mirroring of people; the paper's values.

    >>> from cycledistill_pose.data import PoseAugmentation
    >>> PoseAugmentation().rotation_degrees
    45.0
    >>> still = PoseAugmentation(
    ...     shift=0, flip_probability=0, half_body_probability=0, rotation_degrees=0, scale=0
    ... )  # no randomness left

    The box is shifted, it may be replaced by one around half of the body, and is then scaled,
    rotated and mirrored. This is the recipe of the top-down toolboxes (MMPose 0.x), in which normal
    draws are clipped: the scale at ``1 +- scale``, the angle at twice
    ``rotation_degrees``.

    Attributes:
        shift: Largest shift on either axis, as a fraction of the padded box (uniform).
        shift_probability: Probability of a shift.
        flip_probability: Probability of mirroring, if the skeleton has flip pairs.
        half_body_probability: Probability of showing only the upper or lower half.
        half_body_keypoints: People with at most this many labelled keypoints are always shown
            whole.
        half_body_upper_probability: Probability of the upper half if both are possible. The
            default is the toolboxes' (a normal draw below 0.5).
        half_body_padding: Padding of the box around the keypoints of a half body.
        rotation_degrees: Standard deviation of the angle, which is at most twice this.
        rotation_probability: Probability of a rotation.
        scale: Standard deviation of the scale factor, which differs from 1 by at most this.
    """

    shift: float = 0.16
    shift_probability: float = 0.3
    flip_probability: float = 0.5
    half_body_probability: float = 0.3
    half_body_keypoints: int = 8
    half_body_upper_probability: float = 0.6915
    half_body_padding: float = 1.5
    rotation_degrees: float = 45.0
    rotation_probability: float = 0.6
    scale: float = 0.35

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if name.endswith("probability") and not 0 <= value <= 1:
                raise ValueError(f"{name}: expected a number between 0 and 1, got {value}")
            if not 0 <= value < math.inf:
                raise ValueError(f"{name}: expected 0 or more, got {value}")
        if self.scale >= 1:
            raise ValueError(
                f"scale: expected a number below 1 (a box cannot vanish), got {self.scale}"
            )

    def draw(
        self,
        generator: np.random.Generator,
        box_xyxy: FloatArray,
        padding: float,
        keypoints: FloatArray,
        visible: FloatArray,
        skeleton: Skeleton,
    ) -> CropChange:
        """Draw the crop of one person.

        The number of random values taken is always the same, so one option does not change
        what another one draws.

        Args:
            generator: Source of all randomness.
            box_xyxy: `[4]` px of the image.
            padding: Padding of the box.
            keypoints: `[K, 2]` px of the image.
            visible: `[K]` above 0 where a keypoint is labelled.
            skeleton: Which keypoints are the upper body, and whether there are flip pairs.
        """
        uniform = generator.random(7)
        normal = generator.standard_normal(2)
        moved = uniform[0] < self.shift_probability
        shift = (2 * uniform[1:3] - 1) * self.shift * moved
        if uniform[3] < self.half_body_probability:
            half = self._half_body(uniform[4], keypoints, visible, skeleton)
            if half is not None:
                box_xyxy, padding, shift = half, self.half_body_padding, np.zeros(2)
        scale = min(max(1 + float(normal[0]) * self.scale, 1 - self.scale), 1 + self.scale)
        limit = 2 * self.rotation_degrees
        rotation = min(max(float(normal[1]) * self.rotation_degrees, -limit), limit)
        turned = uniform[5] < self.rotation_probability
        flip = bool(uniform[6] < self.flip_probability) and bool(skeleton.flip_pairs)
        return CropChange(box_xyxy, padding, shift, scale, rotation * turned, flip)

    def _half_body(
        self, draw: float, keypoints: FloatArray, visible: FloatArray, skeleton: Skeleton
    ) -> FloatArray | None:
        """A box `[4]` about the mean of one half's keypoints, or None where that cannot be."""
        labelled = visible > 0
        if labelled.sum() <= self.half_body_keypoints or not skeleton.lower_body:
            return None
        in_upper = np.zeros(len(labelled), dtype=bool)
        in_upper[list(skeleton.upper_body)] = True
        upper, lower = keypoints[labelled & in_upper], keypoints[labelled & ~in_upper]
        take_upper = draw < self.half_body_upper_probability
        enough_upper, enough_lower = len(upper) > 2, len(lower) > 2
        points = upper if (take_upper and enough_upper) or not enough_lower else lower
        if len(points) < 2:
            return None
        size = points.max(0) - points.min(0)
        if size.max() <= 0:
            return None
        size = np.maximum(size, 1e-6 * size.max())
        centre = points.mean(0)
        return np.concatenate([centre - size / 2, centre + size / 2])
