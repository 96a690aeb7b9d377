"""Means and differences with their intervals."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from scipy.stats import t as student


class Spread(NamedTuple):
    """A mean and how well it is known.

    Attributes:
        mean: Mean of the values.
        deviation: Sample standard deviation; NaN for one value.
        half: Half the width of the 95 % interval of the mean after Student; NaN for one value.
        seeds: Number of values, one for each seed.
    """

    mean: float
    deviation: float
    half: float
    seeds: int


def spread(values: Sequence[float]) -> Spread:
    """Mean, deviation and 95 % interval of one value or more.

    >>> [round(number, 2) for number in spread([1.0, 2.0, 3.0])]
    [2.0, 1.0, 2.48, 3]
    """
    count, mean = len(values), statistics.fmean(values)
    if count < 2:
        return Spread(mean, math.nan, math.nan, count)
    deviation = statistics.stdev(values)
    half = float(student.ppf(0.975, count - 1)) * deviation / math.sqrt(count)
    return Spread(mean, deviation, half, count)


def paired_difference(values: Mapping[int, float], baseline: Mapping[int, float]) -> Spread | None:
    """Spread of value - baseline over the seeds that both have; None where they share none.

    >>> paired_difference({0: 3.0, 1: 5.0}, {1: 4.0, 2: 9.0}).mean
    1.0
    """
    shared = sorted(values.keys() & baseline.keys())
    return spread([values[seed] - baseline[seed] for seed in shared]) if shared else None
