"""Object keypoint similarity, and suppression of duplicate people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from cycledistill_pose._checks import check_shape
from cycledistill_pose.skeletons import COCO

# A tensor on any device, an array, or nested lists.
ArrayLike: TypeAlias = Any


def oks(
    keypoints_a: ArrayLike,
    keypoints_b: ArrayLike,
    areas_a: ArrayLike,
    areas_b: ArrayLike | None = None,
    sigmas: Sequence[float] = COCO.sigmas,
    visible_a: ArrayLike | None = None,
) -> NDArray[np.float64]:
    """Object keypoint similarity of every pose of a to every pose of b.

    >>> import numpy as np
    >>> pose = np.zeros((1, 17, 2))
    >>> oks(pose, np.concatenate([pose, pose + 5]), areas_a=[10_000]).round(3)
    array([[1.   , 0.776]])

    The similarity is the mean over keypoints k of exp(-d_k^2 / (2 area (2 sigma_k)^2)), where d_k
    is their distance. The area is that of a, or where both are given (two predictions) the mean
    of the two.

    Args:
        keypoints_a: `[N, K, 2]` px.
        keypoints_b: `[M, K, 2]` px.
        areas_a: `[N]` px^2.
        areas_b: `[M]` px^2, or None.
        sigmas: K fall-off constants, already divided by 10 (COCO's 0.026, 0.025, ...).
        visible_a: `[N, K]`; only keypoints with a value above 0 count. None: all.

    Returns:
        `[N, M]` from 0 to 1 (0 where nothing is counted), a numpy array like all of this module.

    Raises:
        ValueError: The shapes do not match.
    """
    a, b, area = to_array(keypoints_a), to_array(keypoints_b), to_array(areas_a)
    sizes = check_shape("keypoints_a", a, "N K 2", K=len(sigmas))
    sizes |= check_shape("keypoints_b", b, "M K 2", K=len(sigmas))
    check_shape("areas_a", area, "N", **sizes)
    area = area[:, None]
    if areas_b is not None:
        other = to_array(areas_b)
        check_shape("areas_b", other, "M", **sizes)
        area = (area + other) / 2
    squares = np.square(a[:, None] - b[None]).sum(axis=-1)
    variances = np.square(2 * np.asarray(sigmas, dtype=np.float64))
    similarity = np.exp(-squares / variances / (area[..., None] + np.spacing(1)) / 2)
    if visible_a is None:
        return similarity.mean(axis=-1)
    counted = to_array(visible_a) > 0
    check_shape("visible_a", counted, "N K", **sizes)
    counted = counted[:, None]
    return (similarity * counted).sum(axis=-1) / np.maximum(counted.sum(axis=-1), 1)


def oks_nms(
    keypoints: ArrayLike,
    scores: ArrayLike,
    areas: ArrayLike,
    threshold: float = 0.9,
    sigmas: Sequence[float] = COCO.sigmas,
) -> NDArray[np.intp]:
    """Non-maximum suppression: remove duplicates of better people.

    >>> import numpy as np
    >>> poses = np.stack([np.zeros((17, 2)), np.full((17, 2), 0.1), np.full((17, 2), 90.0)])
    >>> oks_nms(poses, scores=[0.7, 0.9, 0.8], areas=[100.0, 100.0, 100.0])
    array([1, 2])

    The best person is kept, those more similar to it than the threshold are removed, and so on with
    the rest. Of equal scores, the later person comes first.

    Args:
        keypoints: `[N, K, 2]` px of one image.
        scores: `[N]` instance scores.
        areas: `[N]` px^2.
        threshold: The highest similarity that two kept people may have.
        sigmas: K fall-off constants.

    Returns:
        `[M]` indices of the kept people, best first.

    Raises:
        ValueError: The shapes do not match.
    """
    similarity = oks(keypoints, keypoints, areas, areas, sigmas)
    order = _descending(_check_scores(scores, len(similarity)))
    kept: list[np.intp] = []
    while len(order):
        best, order = order[0], order[1:]
        kept.append(best)
        order = order[similarity[best, order] <= threshold]
    return np.array(kept, dtype=np.intp)


def soft_oks_nms(
    keypoints: ArrayLike,
    scores: ArrayLike,
    areas: ArrayLike,
    threshold: float = 0.9,
    sigmas: Sequence[float] = COCO.sigmas,
    max_people: int = 20,
) -> NDArray[np.intp]:
    """Soft non-maximum suppression: similarity to a better person lowers the score.

    >>> import numpy as np
    >>> poses = np.stack([np.zeros((17, 2)), np.full((17, 2), 0.1), np.full((17, 2), 90.0)])
    >>> soft_oks_nms(poses, scores=[0.7, 0.9, 0.8], areas=[100.0, 100.0, 100.0])
    array([1, 2, 0])

    The best person is taken, the scores of the others are multiplied by exp(-oks^2 / threshold),
    where oks is their similarity to it, and so on. These scores only set the order; instance scores
    stay the same.

    Args:
        keypoints: `[N, K, 2]` px of one image.
        scores: `[N]` instance scores.
        areas: `[N]` px^2.
        threshold: The width of the Gaussian.
        sigmas: K fall-off constants.
        max_people: Largest number of people.

    Returns:
        `[M]` indices of the people taken, in their order.

    Raises:
        ValueError: The shapes do not match.
    """
    similarity = oks(keypoints, keypoints, areas, areas, sigmas)
    remaining = _check_scores(scores, len(similarity))
    order = _descending(remaining)
    remaining = remaining[order]
    taken: list[np.intp] = []
    while len(order) and len(taken) < max_people:
        best, order = order[0], order[1:]
        taken.append(best)
        remaining = remaining[1:] * np.exp(-np.square(similarity[best, order]) / threshold)
        again = _descending(remaining)
        order, remaining = order[again], remaining[again]
    return np.array(taken, dtype=np.intp)


def to_array(values: ArrayLike) -> NDArray[np.float64]:
    """The values as a float64 array on the CPU."""
    if isinstance(values, Tensor):
        values = values.detach().cpu().numpy()
    return np.asarray(values, dtype=np.float64)


def _descending(scores: NDArray[np.float64]) -> NDArray[np.intp]:
    return np.argsort(scores, kind="stable")[::-1]


def _check_scores(scores: ArrayLike, count: int) -> NDArray[np.float64]:
    array = to_array(scores)
    check_shape("scores", array, "N", N=count)
    return array
