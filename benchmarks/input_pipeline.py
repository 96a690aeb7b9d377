"""From JPEG files to augmented crops in a batch with targets: a straight pipeline over ours.

Needs `tiny_coco` below the folder that the environment variable CYCLEDISTILL_DATA names.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from benchmarks import comparison
from benchmarks.comparison import Comparison, Figure, compare
from benchmarks.straight_input import StraightPeople
from benchmarks.tiny_coco import tiny_coco
from cycledistill_pose import HeatmapCodec
from cycledistill_pose.data import (
    CocoKeypoints,
    PoseAugmentation,
    PoseFiles,
    normalize_images,
)

INPUT, MAPS, SIGMA, BATCH = (192, 256), (48, 64), 2.0, 32
CODEC = HeatmapCodec(INPUT, MAPS, SIGMA, "dark")
PASSES = 2  # over the people, in a timed call of one process
EPOCHS_COMPARED = 4


class OneByOne(Dataset[dict[str, Tensor]]):
    """Samples asked for one by one, as the training loop does: nothing is shared."""

    def __init__(self, people: CocoKeypoints) -> None:
        self.people = people

    def __len__(self) -> int:
        return len(self.people)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return self.people[index]


def measure(rounds: int) -> Iterator[Comparison | Figure]:
    files = tiny_coco()
    threads = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    try:
        with tempfile.TemporaryDirectory() as cache:
            yield from _differences(files, cache)
            yield from _ratios(files, cache, rounds)
            yield from _growth(files, cache, rounds)
    finally:
        torch.set_num_threads(threads[0])
        cv2.setNumThreads(threads[1])


def straight(files: PoseFiles) -> StraightPeople:
    content = json.loads(files.annotations.read_bytes())
    return StraightPeople(content, files.images, INPUT, MAPS, SIGMA)


def ours(files: PoseFiles, **options: Any) -> CocoKeypoints:
    return CocoKeypoints(*files, input_size=INPUT, augmentation=PoseAugmentation(), **options)


def finish_straight(batch: dict[str, Tensor], device: torch.device) -> Tensor:
    """Inputs, targets and weights go to the device."""
    moved = [batch[name].to(device, non_blocking=True) for name in ("image", "target", "weight")]
    return moved[0]


def finish_ours(batch: dict[str, Tensor], device: torch.device) -> Tensor:
    """Bytes and keypoints go to the device, which makes inputs and targets of them."""
    moved = {name: value.to(device, non_blocking=True) for name, value in batch.items()}
    CODEC.encode(moved["keypoints"], moved["visible"])
    return normalize_images(moved["image"])


def passes(people: Any, finish: Any, batch: int = BATCH, workers: int = 0) -> Callable[[], int]:
    """A call that loads everybody ``PASSES`` times, in random order, and counts them."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    generator = torch.Generator().manual_seed(0)
    times = PASSES * max(1, 2 * workers)
    order = [i for _ in range(times) for i in torch.randperm(len(people), generator=generator)]
    loader: DataLoader[Any] = DataLoader(
        people,
        batch,
        sampler=[int(index) for index in order],
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=device.type == "cuda",
    )

    def call() -> int:
        for loaded in loader:
            result = finish(loaded, device)
        float(result.flatten()[0])  # waits for the device
        return len(order)

    call.loader = loader  # type: ignore[attr-defined]
    return call


def _differences(files: PoseFiles, cache: str) -> Iterator[Figure]:
    """Nothing is timed before the values agree."""
    theirs, full = straight(files), ours(files)
    cached, reduced = ours(files, crop_cache=cache), ours(files, reduced_decoding=True)
    assert len(theirs) == len(full)
    means: dict[str, list[float]] = {"full": [], "reduced": []}
    for epoch in range(EPOCHS_COMPARED):
        theirs.epoch = epoch
        for people in (full, cached, reduced):
            people.set_epoch(epoch)
        for index in range(len(full)):
            crop, _, _ = theirs.crop(index)
            sample, expected = full[index], theirs[index]
            pixels = sample["image"].numpy().astype(np.int16)
            means["full"].append(float(np.abs(pixels - crop).mean()))
            assert np.abs(pixels - crop).max() <= 1
            for name, value in cached[index].items():
                assert torch.equal(value, sample[name])
            image = normalize_images(sample["image"][None])[0]
            assert (image - expected["image"]).abs().max() < 0.02  # a grey level is 0.017
            target, weight = CODEC.encode(sample["keypoints"][None], sample["visible"][None])
            assert (target[0] - expected["target"]).abs().max() < 1e-4
            assert torch.equal(weight[0], expected["weight"])
            other = np.abs(reduced[index]["image"].numpy().astype(np.int16) - pixels)
            if other.any():
                means["reduced"].append(float(other.mean()))
    assert max(means["full"]) < 0.01
    share = len(means["reduced"]) / (EPOCHS_COMPARED * len(full))
    for name, label in (
        ("full", "grey levels of 255 between ours and the straight pipeline, a crop's mean"),
        ("reduced", f"the same with reduced decoding, in the {share:.0%} of crops that differ"),
    ):
        low, middle, high = statistics.quantiles(means[name], n=4)
        yield Figure(label, middle, low, high, "grey levels")


def _ratios(files: PoseFiles, cache: str, rounds: int) -> Iterator[Comparison]:
    reference = passes(straight(files), finish_straight)

    def decode_alone() -> None:
        for image_index in PASSES * [int(i) for i in people.image_index]:
            data = np.fromfile(files.images / people.names[image_index], np.uint8)
            cv2.imdecode(data, cv2.IMREAD_COLOR)

    full = ours(files)
    people = full._people
    what = f"{len(full)} people of tiny_coco, batches of {BATCH}"
    rows: list[tuple[str, Callable[[], object], float | None]] = [
        ("ours, decoding each person's image", passes(OneByOne(full), finish_ours), None),
        (
            "the same, reduced",
            passes(OneByOne(ours(files, reduced_decoding=True)), finish_ours),
            None,
        ),
        ("decoding each person's image and nothing else", decode_alone, None),
        ("ours, decoding each image of a batch once", passes(full, finish_ours), 2.0),
        ("the same, reduced", passes(ours(files, reduced_decoding=True), finish_ours), 2.0),
        ("ours, warm cache", passes(OneByOne(ours(files, crop_cache=cache)), finish_ours), 8.0),
    ]
    for name, call, limit in rows:
        note = "the straight pipeline"
        yield compare(
            f"{what}: straight / {name}", call, reference, rounds, limit, note, speed_up=True
        )


def _growth(files: PoseFiles, cache: str, rounds: int) -> Iterator[Figure]:
    """Samples a second by batch and workers; by the CPU's clock, of all processes' time."""
    kinds = {
        "straight": (straight(files), finish_straight),
        "full decoding": (OneByOne(ours(files)), finish_ours),
        "warm cache": (OneByOne(ours(files, crop_cache=cache)), finish_ours),
    }
    settings = [(8, 0), (BATCH, 0), (128, 0), (BATCH, 1), (BATCH, 2)]
    for name, (people, finish) in kinds.items():
        for batch, workers in settings:
            call = passes(people, finish, batch, workers)
            call()
            rates = []
            for _ in range(rounds):
                pids = _worker_pids(call)
                before = _now(pids)
                count = call()
                rates.append(count / (_now(pids) - before))
            low, middle, high = statistics.quantiles(rates, n=4)
            label = f"{name}, batch {batch}, {workers} workers"
            yield Figure(label, middle, low, high, "samples/s")


def _worker_pids(call: Any) -> list[int]:
    iterator = call.loader._iterator
    return [] if iterator is None else [worker.pid for worker in iterator._workers]


def _now(pids: list[int]) -> float:
    """By the chosen clock; the CPU's is that of this process and its workers together."""
    now = comparison.CLOCKS[comparison.chosen_clock]()
    if comparison.chosen_clock == "cpu":
        # Linux numbers the CPU clock of another process so.
        now += sum(time.clock_gettime((~pid << 3) | 2) for pid in pids)
    return now
