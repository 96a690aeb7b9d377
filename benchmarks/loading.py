"""From JPEG files to augmented crops in a batch with targets: a straight pipeline over ours.

The people of `tiny_coco`, below the folder that CYCLEDISTILL_DATA names. Pixels and targets are
compared before anything is timed. Then whether loading keeps up with training: images a second of
each alone and of both together, by the wall's clock; on a GPU in bfloat16 and compiled.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, DataLoader, Dataset

from benchmarks import codec
from benchmarks._frame import NoDataError, Row, in_turn, ratio, seconds
from benchmarks.training import PoseStep
from cycledistill_pose import HeatmapCodec, create_sdpose
from cycledistill_pose.data import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    CocoKeypoints,
    PoseAugmentation,
    PoseFiles,
    check_coco_root,
    crop_matrix,
    normalize_images,
    transform_points,
)
from cycledistill_pose.skeletons import COCO

INPUT = (codec.STRIDE * codec.WIDTH, codec.STRIDE * codec.HEIGHT)
CODEC = HeatmapCodec(INPUT, (codec.WIDTH, codec.HEIGHT), codec.SIGMA, "dark")
MEAN, STD = np.array(IMAGENET_MEAN, np.float32), np.array(IMAGENET_STD, np.float32)
PADDING = 1.25
BATCH, PASSES, EPOCHS_COMPARED = 32, 2, 4
TARGETS = {
    "decoding each image of a batch once": 2.0,
    "decoding each image of a batch once, reduced": 2.0,
    "warm crop cache": 8.0,
}
TRAINING_BATCHES = {"cpu": 16, "cuda": 128}
TRAINING_STEPS = {"cpu": 4, "cuda": 40}


class StraightPeople(Dataset[dict[str, Tensor]]):
    """A pose input pipeline as toolboxes write it: one person after the other, all in numpy.

    Each image is read, decoded in full and turned to RGB, moved, scaled, turned and mirrored by
    `PoseAugmentation`'s own draws, warped once, normalised, and given its heatmaps.
    """

    def __init__(self, files: PoseFiles) -> None:
        content = json.loads(files.annotations.read_bytes())
        images = {image["id"]: image for image in content["images"]}
        self.people = [
            (person, images[person["image_id"]])
            for person in content["annotations"]
            if person["num_keypoints"] and not person["iscrowd"]
        ]
        self.files = [files.images / image["file_name"] for _, image in self.people]
        self.augmentation = PoseAugmentation()
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.people)

    def crop(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The crop `[H, W, 3]` in RGB, and keypoints and visibility in it."""
        person, image = self.people[index]
        pixels = cv2.cvtColor(cv2.imread(str(self.files[index])), cv2.COLOR_BGR2RGB)
        x, y, w, h = person["bbox"]
        right, bottom = min(image["width"] - 1, x + w), min(image["height"] - 1, y + h)
        labels = np.array(person["keypoints"], dtype=np.float64).reshape(-1, 3)
        visible = (labels[:, 2] > 0).astype(np.float32)
        points = labels[:, :2] * visible[:, None]
        change = self.augmentation.draw(
            np.random.default_rng((0, self.epoch, index)),
            np.array([max(x, 0), max(y, 0), right, bottom]),
            PADDING,
            points,
            visible,
            COCO,
        )
        matrix = crop_matrix(
            change.box_xyxy,
            INPUT,
            change.padding,
            shift=change.shift,
            scale=change.scale,
            rotation_degrees=change.rotation_degrees,
            flip=change.flip,
        )
        crop = cv2.warpAffine(pixels, matrix, INPUT, flags=cv2.INTER_LINEAR)
        order = list(COCO.flip_indices) if change.flip else slice(None)
        return crop, transform_points(points, matrix)[order], visible[order]

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        crop, points, visible = self.crop(index)
        image = crop.astype(np.float32)
        image *= 1 / 255
        image -= MEAN
        image /= STD
        points = np.where(visible[:, None] > 0, points, -1e6).astype(np.float32)
        targets, weights = codec.draw_all(points[None], codec.draw_whole)
        return {
            "image": torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))),
            "target": torch.from_numpy(targets[0]),
            "weight": torch.from_numpy(weights[0]),
        }


def measure(rounds: int, device: str = "cpu") -> Iterator[Row]:
    root = os.environ.get("CYCLEDISTILL_DATA")
    if not root:
        raise NoDataError("set CYCLEDISTILL_DATA to the folder that has tiny_coco/")
    files = check_coco_root(Path(root) / "tiny_coco", ["train"])["train"]
    with tempfile.TemporaryDirectory() as cache:
        yield from differences(files, cache)
        yield from ratios(files, cache, rounds, device)
        yield from keeping_up(files, cache, max(2, rounds // 4), device)


def ours(files: PoseFiles, **options: Any) -> CocoKeypoints:
    return CocoKeypoints(*files, input_size=INPUT, augmentation=PoseAugmentation(), **options)


def ways(files: PoseFiles, cache: str) -> dict[str, Dataset[Any]]:
    """To load people; a ConcatDataset asks for one by one, as the training loop does."""
    full, reduced = ours(files), ours(files, reduced_decoding=True)
    return {
        "straight": StraightPeople(files),
        "decoding each person's image": ConcatDataset([full]),
        "decoding each person's image, reduced": ConcatDataset([reduced]),
        "decoding each image of a batch once": full,
        "decoding each image of a batch once, reduced": reduced,
        "warm crop cache": ConcatDataset([ours(files, crop_cache=cache)]),
    }


def differences(files: PoseFiles, cache: str) -> Iterator[Row]:
    """In a crop's mean; everything is compared, and must agree, but for reduced decoding."""
    theirs, full = StraightPeople(files), ours(files)
    cached, reduced = ours(files, crop_cache=cache), ours(files, reduced_decoding=True)
    assert len(theirs) == len(full)
    of_full, of_reduced = [], []
    for epoch in range(EPOCHS_COMPARED):
        theirs.epoch = epoch
        for people in (full, cached, reduced):
            people.set_epoch(epoch)
        for index in range(len(full)):
            sample, expected = full[index], theirs[index]
            pixels = sample["image"].numpy().astype(np.int16)
            apart = np.abs(pixels - theirs.crop(index)[0])
            assert apart.max() <= 1
            of_full.append(float(apart.mean()))
            assert all(torch.equal(value, sample[key]) for key, value in cached[index].items())
            given, target, weight = finished({key: value[None] for key, value in sample.items()})
            assert (given[0] - expected["image"]).abs().max() < 0.02  # a grey level is 0.017
            assert (target[0] - expected["target"]).abs().max() < 1e-4
            assert torch.equal(weight[0], expected["weight"])
            other = np.abs(reduced[index]["image"].numpy().astype(np.int16) - pixels)
            of_reduced += [float(other.mean())] * bool(other.any())
    assert max(of_full) < 0.01
    yield Row.of("a crop, straight - ours", of_full, "of 255 grey levels")
    share = len(of_reduced) / len(of_full)
    what = f"a crop, reduced decoding - full, in the {share:.0%} that differ"
    yield Row.of(what, of_reduced, "of 255 grey levels")


def ratios(files: PoseFiles, cache: str, rounds: int, device: str) -> Iterator[Row]:
    """In this process, without workers."""
    paths = PASSES * StraightPeople(files).files

    def decode_alone() -> None:
        for path in paths:
            cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)

    calls: dict[str, Callable[[], None]] = {
        name: Loading(people, BATCH, len(paths), device)
        for name, people in ways(files, cache).items()
    }
    taken = in_turn({**calls, "decoding alone": decode_alone}, rounds)
    for name, values in taken.items():
        label = f"loading in batches of {BATCH}, {name}"
        yield Row.of(label, [len(paths) / spent for spent in values], "images/s")
        if name != "straight":
            gained = ratio(taken["straight"], values)
            yield Row.of(f"{label}: straight / it", gained, "", TARGETS.get(name), True)


def keeping_up(files: PoseFiles, cache: str, rounds: int, device: str) -> Iterator[Row]:
    """With as many workers as there are other cores."""
    workers = max(1, (os.cpu_count() or 2) - 1)
    batch, steps = TRAINING_BATCHES[device], TRAINING_STEPS[device]
    train = PoseStep(create_sdpose("sdpose_t"), device)
    if device == "cuda":
        train.model, train.bfloat16 = torch.compile(train.cycled, dynamic=False), True  # type: ignore[assignment]
    calls: dict[str, Callable[[], None]] = {}
    for name, people in ways(files, cache).items():
        if name in ("straight", "decoding each person's image", "warm crop cache"):
            load = Loading(people, batch, batch * steps, device, workers)
            calls |= {
                f"loading, {name}": load,
                f"loading and training, {name}": partial(load, train),
            }
    given = next(iter(load))
    calls["training"] = lambda: [train(*given) for _ in range(steps)]  # type: ignore[assignment]
    taken = in_turn(calls, rounds, partial(seconds, clock="wall"))
    for what, values in taken.items():
        label = f"{what}, {workers} workers, batch {batch}"
        yield Row.of(label, [batch * steps / spent for spent in values], "images/s")


class Loading:
    """Passes over people in random order, in batches that end on the device with their targets."""

    def __init__(self, people: Any, batch: int, count: int, device: str, workers: int = 0) -> None:
        order = [int(i) for _ in range(0, count, len(people)) for i in torch.randperm(len(people))]
        self.device = device
        self.loader: DataLoader[dict[str, Tensor]] = DataLoader(
            people,
            batch,
            sampler=order[:count],
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=device == "cuda",
        )

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        for loaded in self.loader:
            on_device = {k: v.to(self.device, non_blocking=True) for k, v in loaded.items()}
            yield finished(on_device)

    def __call__(self, use: Callable[..., object] = lambda *_: None) -> None:
        for batch in self:
            use(*batch)


def finished(batch: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs, targets and weights; ours are made of bytes and keypoints, where the batch is."""
    if "target" in batch:
        return batch["image"], batch["target"], batch["weight"]
    return normalize_images(batch["image"]), *CODEC.encode(batch["keypoints"], batch["visible"])
