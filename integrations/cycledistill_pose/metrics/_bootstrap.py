"""Confidence intervals of average precision: a bootstrap over images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cycledistill._checks import check_count
from cycledistill_pose.metrics._keypoint_ap import KeypointAP

_NUMBERS_AT_A_TIME = 2_000_000


def bootstrap_ap(
    metrics: Sequence[KeypointAP], resamples: int = 1000, seed: int = 0
) -> NDArray[np.float64]:
    """AP of each metric on images drawn with replacement, many times over.

    >>> from cycledistill_pose.metrics import CocoKeypointAP
    >>> person = {"category_id": 1, "bbox": [0, 0, 100, 100], "keypoints": [50.0, 60.0, 2] * 17}
    >>> annotations = {
    ...     "images": [{"id": 1}, {"id": 2}],
    ...     "annotations": [{**person, "image_id": 1}, {**person, "image_id": 2}],
    ...     "categories": [{"id": 1, "name": "person"}],
    ... }
    >>> metric = CocoKeypointAP(annotations)
    >>> poses = [[[50.0, 60.0]] * 17, [[95.0, 5.0]] * 17]  # right, wrong
    >>> metric.update([1, 2], poses, [[0.9] * 17] * 2, [[0, 0, 100, 100]] * 2, [1, 1])
    >>> samples = bootstrap_ap([metric], resamples=200)
    >>> samples.shape, sorted({round(float(ap), 1) for ap in samples[0]})  # of none, one or two
    ((1, 200), [0.0, 0.5, 1.0])
    >>> percentile_interval(samples[0])
    (0.0, 1.0)

    All metrics use the same draws, so ``samples[1] - samples[0]`` are paired differences, in which
    most of the effect of the choice of images cancels out.

    People are matched once, by pycocotools; an image that is drawn w times counts w times in the
    curve of precision over recall. This is exactly what pycocotools would find on a file with w
    copies of the image (up to the order of equal scores within an image), but much faster.
    Images without people are drawn too.

    Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapters 6 and 13.

    Args:
        metrics: `M` metrics that have seen their predictions, over the same images.
        resamples: Number of bootstrap samples, B.
        seed: Seed of the draws.

    Returns:
        `[M, B]` AP from 0 to 1, nan for draws without people. In a distributed run
        every process must call it, and gets the same.

    Raises:
        ValueError: There is no metric, the images differ, or ``resamples`` is below 1.
    """
    check_count("resamples", resamples)
    if not metrics:
        raise ValueError("metrics: expected at least one, got none")
    if any(metric.image_ids != metrics[0].image_ids for metric in metrics):
        sizes = [len(metric.image_ids) for metric in metrics]
        raise ValueError(f"metrics: expected all to be over the same images, got {sizes} images")
    curves = [_matches(metric) for metric in metrics]
    random = np.random.default_rng(seed)
    images = len(metrics[0].image_ids)
    step = max(1, _NUMBERS_AT_A_TIME // max(images, *(len(c.image) for c in curves), 1))
    samples = np.empty((len(curves), resamples))
    for start in range(0, resamples, step):
        count = min(step, resamples - start)
        drawn = random.integers(images, size=(count, images))
        times = np.zeros((count, images))
        np.add.at(times, (np.arange(count)[:, None], drawn), 1)
        for row, curve in zip(samples, curves, strict=True):
            row[start : start + count] = _average_precision(curve, times)
    return samples


def percentile_interval(samples: Any, level: float = 0.95) -> tuple[float, float]:
    """The middle ``level`` of bootstrap samples: the percentile interval; nan are left out.

    >>> percentile_interval(range(101), level=0.5)
    (25.0, 75.0)

    Raises:
        ValueError: ``level`` is not between 0 and 1, or no sample is a number.
    """
    if not 0 < level < 1:
        raise ValueError(f"level: expected a number between 0 and 1, got {level}")
    values = np.asarray(samples, dtype=np.float64)
    values = values[np.isfinite(values)]
    if not values.size:
        raise ValueError("samples: expected a number among them, got none")
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


class _Matches(NamedTuple):
    """Predicted people of all images, best score first, and whether they match.

    Attributes:
        image: `[D]` index of each person's image.
        found: `[T, D]` whether it matches a person, by threshold.
        wrong: `[T, D]` whether it matches no person (neither: it is ignored).
        people: `[I]` number of annotated people in each image.
        recalls: `[R]` recalls at which precision is read.
    """

    image: NDArray[np.intp]
    found: NDArray[np.bool_]
    wrong: NDArray[np.bool_]
    people: NDArray[np.float64]
    recalls: NDArray[np.float64]


def _matches(metric: KeypointAP) -> _Matches:
    """The matches that pycocotools found, image by image."""
    evaluation = metric._evaluate(metric.results())
    thresholds = len(evaluation.params.iouThrs)
    people = np.zeros(len(evaluation.params.imgIds))
    image, scores = [np.zeros(0, np.intp)], [np.zeros(0)]
    found, ignored = ([np.zeros((thresholds, 0), bool)] for _ in range(2))
    # One category and one range of areas: one entry for each image, in the order of imgIds.
    for index, result in enumerate(evaluation.evalImgs):
        if result is None:
            continue
        people[index] = np.count_nonzero(np.asarray(result["gtIgnore"]) == 0)
        image.append(np.full(len(result["dtScores"]), index))
        scores.append(np.asarray(result["dtScores"], dtype=np.float64))
        found.append(np.asarray(result["dtMatches"]) > 0)
        ignored.append(np.asarray(result["dtIgnore"], dtype=bool))
    order = np.argsort(-np.concatenate(scores), kind="stable")
    matched, left_out = (np.concatenate(part, axis=1)[:, order] for part in (found, ignored))
    return _Matches(
        np.concatenate(image)[order],
        matched & ~left_out,
        ~matched & ~left_out,
        people,
        np.asarray(evaluation.params.recThrs),
    )


def _average_precision(curve: _Matches, times: NDArray[np.float64]) -> NDArray[np.float64]:
    """`[B]` AP when image i counts `times[b, i]` times; nan without people."""
    people = times @ curve.people
    weights = times[:, curve.image]
    total = np.zeros(len(times))
    if weights.shape[1]:
        for found, wrong in zip(curve.found, curve.wrong, strict=True):
            right = np.cumsum(weights * found, axis=1)
            counted = right + np.cumsum(weights * wrong, axis=1)
            precision = right / (counted + np.spacing(1))
            # The best precision at this recall or a higher one.
            envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
            recall = right / np.maximum(people, 1)[:, None]
            for b, row in enumerate(recall):
                reached = np.searchsorted(row, curve.recalls, side="left")
                total[b] += envelope[b, reached[reached < len(row)]].sum()
    mean = total / (len(curve.found) * len(curve.recalls))
    return np.where(people > 0, mean, np.nan)
