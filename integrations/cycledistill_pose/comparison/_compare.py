"""Scores of several networks on the same people, with confidence intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cycledistill import CycleWrapper
from cycledistill._checks import check_count
from cycledistill._device import Device, find_device
from cycledistill_pose.annotations import check_same_keypoints
from cycledistill_pose.checkpoints import load_plain
from cycledistill_pose.codecs import codec_for
from cycledistill_pose.comparison._cases import Case, pick_cases
from cycledistill_pose.metrics import bootstrap_ap, percentile_interval
from cycledistill_pose.recipes import EvaluationOptions, evaluate_cycles, open_evaluation
from cycledistill_pose.recipes._evaluate import CycleMetrics
from cycledistill_pose.skeletons import Skeleton

_SHOWN_SIZE = (192, 256)


class Row(NamedTuple):
    """One network with one number of cycles, with or without the flip test.

    Attributes:
        checkpoint: Its folder.
        num_cycles: Passes through the blocks.
        flip_test: Whether outputs for mirrored images are averaged in.
        scores: Percent by metric, such as ``{"AP": 61.2, "AP50": ...}``; empty if no
            people are annotated.
        interval: 95 % of the bootstrap's AP, in percent; None without AP.
        difference: AP minus that of the first network, same cycles and flip test; None for the
            first itself.
        difference_interval: 95 % of the bootstrap's paired differences.
        results: The predictions in COCO's results format, where there is no AP; else empty.
    """

    checkpoint: str
    num_cycles: int
    flip_test: bool
    scores: dict[str, float]
    interval: tuple[float, float] | None
    difference: float | None
    difference_interval: tuple[float, float] | None
    results: Sequence[dict[str, Any]] = ()


class Comparison(NamedTuple):
    """All rows, checkpoint by checkpoint, and the cases.

    Attributes:
        rows: See ``Row``.
        cases: See ``Case``.
        skeleton: Skeleton of the people.
        report: How many people and images there are.
        assumed: Keypoints, flip pairs and sigmas, and where they come from.
        resamples: Number of bootstrap samples.
        shown: Of the cases' predictions: the cycles of each network, and the flip test.
    """

    rows: list[Row]
    cases: list[Case]
    skeleton: Skeleton
    report: dict[str, int]
    assumed: dict[str, str]
    resamples: int
    shown: tuple[tuple[int, ...], bool]


def compare_checkpoints(
    checkpoints: Sequence[str | Path],
    people: EvaluationOptions,
    num_cycles: int | None = None,
    flip_tests: Sequence[bool] = (True, False),
    resamples: int = 1000,
    cases: int = 8,
    device: Device = "auto",
    seed: int = 0,
    num_workers: int = 0,
) -> Comparison:
    """Evaluate plain networks after 1, 2, ... cycles, all on the same people.

    Args:
        checkpoints: Folders of plain networks, or their names on the Hugging Face Hub; differences
            are to the first.
        people: The people to evaluate on, and how AP is measured.
        num_cycles: The most cycles. None: 2, or more if a network was trained to be used with more.
        flip_tests: With the flip test, without, or both.
        resamples: Draws of the bootstrap over images.
        cases: How many worst, best and differing people to pick: after the cycles that each network
            was trained to be used with, with the first of ``flip_tests``.
        device: Where the networks run; auto uses the accelerator if there is one.
        seed: Seed of generated people and of the bootstrap.
        num_workers: Processes that load images.

    Raises:
        FileNotFoundError: A checkpoint or the data is missing.
        ValueError: A checkpoint is broken, or of other keypoints than the data; or there is no
            such device.
    """
    check_count("num_cycles", 2 if num_cycles is None else num_cycles)
    check_count("bootstrap", resamples)
    if cases < 0:
        raise ValueError(f"cases: expected a whole number of 0 or more, got {cases}")
    names = [str(folder) for folder in checkpoints]
    if len(set(names)) != len(names) or not names:
        raise ValueError(f"checkpoints: expected different folders, got {names}")
    place = find_device(device)
    # Read all of them first: a broken one should not waste the time of evaluating the others.
    networks = [load_plain(folder) for folder in checkpoints]
    if num_cycles is None:
        num_cycles = max(2, *(network.model.cycles_in_use for network in networks))
    if not any(network.skeleton.flip_pairs for network in networks):
        flip_tests = (False,)
    opened = open_evaluation(people, seed, networks[0].skeleton)
    for name, network in zip(names, networks, strict=True):
        check_same_keypoints((f"the network {name}", network.skeleton), opened.file.named)
    truth = opened.annotated
    runs: dict[tuple[str, int, bool], CycleMetrics] = {}
    shown, used = [], [min(network.model.cycles_in_use, num_cycles) for network in networks]
    for name, (plain, skeleton, options), in_use in zip(names, networks, used, strict=True):
        model = CycleWrapper(plain, num_cycles, "blocks").eval().to(place)
        codec = codec_for(plain, **options)
        for flip in flip_tests:
            pairs = skeleton.flip_indices if flip else None
            metrics = evaluate_cycles(model, opened, codec, num_cycles, pairs, num_workers)
            runs |= {(name, cycle, flip): metric for cycle, metric in enumerate(metrics, 1)}
            if flip != flip_tests[0] or truth.boxes is not None:
                continue
            if opened.boxes is not None:  # detected boxes have no truth; annotated ones have
                metrics = evaluate_cycles(model, truth, codec, in_use, pairs, num_workers)
            shown.append(metrics[in_use - 1].ap)
        model.cpu()
    return Comparison(
        _rows(runs, resamples, seed),
        pick_cases(shown, truth.crops(_SHOWN_SIZE), cases) if truth.boxes is None else [],
        opened.skeleton,
        opened.crops(_SHOWN_SIZE).report(),
        opened.assumed(pairs_from="the network's"),
        resamples,
        (tuple(used), flip_tests[0]),
    )


def _rows(runs: dict[tuple[str, int, bool], CycleMetrics], resamples: int, seed: int) -> list[Row]:
    scores = {key: metric.scores() for key, metric in runs.items()}
    if not any(scores.values()):
        return [Row(*key, {}, None, None, None, run.ap.results()) for key, run in runs.items()]
    drawn = 100 * bootstrap_ap([metric.ap for metric in runs.values()], resamples, seed)
    samples = dict(zip(runs, drawn, strict=True))
    first_network = next(iter(runs))[0]
    rows = []
    for key, own in scores.items():
        first = (first_network, *key[1:])
        difference = interval = None
        if key != first:
            difference = own["AP"] - scores[first]["AP"]
            interval = percentile_interval(samples[key] - samples[first])
        rows.append(Row(*key, own, percentile_interval(samples[key]), difference, interval))
    return rows


def between(interval: tuple[float, float] | None) -> str:
    """An interval in brackets."""
    low, high = interval or (math.nan, math.nan)
    return f"[{low:.1f}, {high:.1f}]"
