"""Whether loading keeps up with training: images a second of each alone, and of both together.

The people of `tiny_coco`, below the folder that CYCLEDISTILL_DATA names, again and again, in the
training step of SDPose-T, by the wall's clock; on a GPU in bfloat16 and compiled.
"""

from __future__ import annotations

import os
import statistics
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from benchmarks.comparison import Figure, wall_seconds
from benchmarks.input_pipeline import INPUT, MAPS, SIGMA, OneByOne, ours, straight
from benchmarks.tiny_coco import tiny_coco
from cycledistill_pose import HeatmapCodec, create_sdpose
from cycledistill_pose.data import normalize_images
from cycledistill_pose.models import sdpose_loss

BATCHES = {"cpu": 16, "cuda": 128}
STEPS = {"cpu": 4, "cuda": 40}


def measure(rounds: int, device: str = "cpu") -> Iterator[Figure]:
    files = tiny_coco()
    workers = max(1, (os.cpu_count() or 2) - 1)
    batch, steps = BATCHES[device], STEPS[device]
    train = training(device)
    with tempfile.TemporaryDirectory() as cache:
        kinds: dict[str, tuple[Any, Any]] = {
            "straight pipeline": (straight(files), finish_straight_all),
            "full decoding": (OneByOne(ours(files)), finish_ours_all),
            "warm crop cache": (OneByOne(ours(files, crop_cache=cache)), finish_ours_all),
        }
        for name, (people, finish) in kinds.items():
            order = [i % len(people) for i in range(batch * steps)]
            loader: DataLoader[Any] = DataLoader(
                people,
                batch,
                sampler=order,
                num_workers=workers,
                persistent_workers=True,
                pin_memory=device == "cuda",
            )
            batches = Repeated(loader, finish, device)
            batches()
            resident = finish(next(iter(loader)), device)
            train(*resident)
            work: dict[str, Callable[[], object]] = {
                "loading alone": batches,
                "training alone": partial(repeat, train, resident, steps),
                "both": partial(batches, train),
            }
            for what, call in work.items():
                rates = [batch * steps / wall_seconds(call) for _ in range(max(2, rounds // 10))]
                low, middle, high = statistics.quantiles(rates, n=4)
                label = f"{name}, {workers} workers, batch {batch}: {what}"
                yield Figure(label, middle, low, high, "images/s")


def repeat(function: Callable[..., object], given: tuple[Tensor, ...], times: int) -> None:
    """Call it again and again."""
    for _ in range(times):
        function(*given)


class Repeated:
    """One pass over a loader, and what is done with each batch."""

    def __init__(self, loader: DataLoader[Any], finish: Any, device: str) -> None:
        self.loader, self.finish, self.device = loader, finish, device

    def __call__(self, use: Callable[..., Any] = lambda *_: None) -> None:
        for loaded in self.loader:
            use(*self.finish(loaded, self.device))


def finish_straight_all(batch: dict[str, Tensor], device: str) -> tuple[Tensor, ...]:
    """Inputs, targets and weights on the device."""
    moved = {name: value.to(device, non_blocking=True) for name, value in batch.items()}
    return moved["image"], moved["target"], moved["weight"]


def finish_ours_all(batch: dict[str, Tensor], device: str) -> tuple[Tensor, ...]:
    """The same, which the device makes of bytes and keypoints."""
    moved = {name: value.to(device, non_blocking=True) for name, value in batch.items()}
    codec = HeatmapCodec(INPUT, MAPS, SIGMA, "dark")
    return normalize_images(moved["image"]), *codec.encode(moved["keypoints"], moved["visible"])


def training(device: str) -> Callable[[Tensor, Tensor, Tensor], None]:
    """A step of SDPose-T and Adam."""
    cycled = create_sdpose("sdpose_t").train().to(device)
    criterion = sdpose_loss(cycled.plain).to(device)
    optimizer = torch.optim.Adam(cycled.parameters(), lr=1e-4)
    model: Any = torch.compile(cycled, dynamic=False) if device == "cuda" else cycled

    def step(images: Tensor, target: Tensor, weight: Tensor) -> None:
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            loss = criterion(model(images), target, weight).total
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return step
