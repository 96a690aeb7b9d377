"""A training step: a straight translation of the paper over ours, and what each part of ours gains.

On a GPU ours is in bfloat16 and compiled; the straight translation stays in float32. Both sides
start from the same weights and the keypoints of the same people: the straight translation draws
the targets one by one in numpy, with images that are floats already; ours normalises bytes and
draws on the device. Each in a process of its own, Adam's step included.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks._frame import Apart, Row, in_turn, ratio
from benchmarks._straight import StraightSDPose
from benchmarks.codec import draw_all, draw_whole
from cycledistill import CycleWrapper
from cycledistill_pose import HeatmapCodec, create_sdpose
from cycledistill_pose.data import normalize_images
from cycledistill_pose.models import sdpose_loss
from tests.core.reference import HandFed, equation_4

# Above 16 images PyTorch takes another convolution on one thread, the one that batches of use take.
BATCHES = {"cpu": 17, "cuda": 128}
TARGETS = {"cpu": 1.25, "cuda": 3.0}
TOKEN_WEIGHT = 5e-6  # the paper's, and our default
PLAIN = {"cpu": (), "cuda": ("not compiled", "in float32")}
PARTS: dict[str, list[tuple[str, ...]]] = {
    "cpu": [("channels-first",), ("attention in two products",), ("in bfloat16",)],
    "cuda": [
        ("not compiled",),
        ("not compiled", "in float32"),
        ("not compiled", "channels-first"),
        ("not compiled", "attention in two products"),
    ],
}


def measure(rounds: int, device: str = "cpu") -> Iterator[Row]:
    yield from of_model("sdpose_t", BATCHES[device], rounds, PARTS[device], device)
    yield from of_model("sdpose_s_v1", BATCHES[device], rounds, [], device)


def of_model(
    name: str, batch: int, rounds: int, parts: list[tuple[str, ...]], device: str = "cpu"
) -> Iterator[Row]:
    """Straight / ours, and ours with parts of it changed / ours."""
    given = name, batch, device
    with Apart(build_ours, *given) as ours, Apart(build_straight, *given) as straight:
        # Each one's first step, from the same weights and without TF32.
        expected, loss = ours(*PLAIN[device], "exact")[1], straight("exact")[1]
        assert abs(loss - expected) < 1e-4 * abs(expected), (loss, expected)
        calls: dict[str, Callable[[], tuple[float, float]]] = {
            "ours": ours,
            "straight translation": straight,
            "straight translation, its targets given": partial(straight, "targets given"),
        }
        calls |= {f"ours, {', '.join(part)}": partial(ours, *part) for part in parts}
        taken = in_turn(calls, rounds, lambda call: call()[0])
    for what, values in taken.items():
        target = TARGETS[device] if what == "straight translation" else None
        label = f"training step, {name}, batch {batch}: {what} / ours"
        if what != "ours":
            yield Row.of(label, ratio(values, taken["ours"]), "", target, True)


class PoseStep:
    """A training step as the pose recipe and `fit` do it, with Adam; from images and targets."""

    def __init__(self, cycled: CycleWrapper, device: str) -> None:
        self.cycled = cycled.train().to(device)
        self.model: nn.Module = self.cycled
        self.criterion = sdpose_loss(cycled).to(device)
        self.optimizer = torch.optim.Adam(cycled.parameters(), lr=1e-4)
        self.bfloat16 = False

    def forward(self, images: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        """The loss."""
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.bfloat16):
            total: Tensor = self.criterion(self.model(images), target, weight).total
        return total

    def __call__(self, images: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        loss = self.forward(images, target, weight)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.detach()


def build_ours(name: str, batch: int, device: str) -> Callable[..., float]:
    """The step from bytes and keypoints; its arguments change parts of it."""
    ours = PoseStep(same_model(name), device)
    compiled = torch.compile(ours.cycled) if device == "cuda" else ours.cycled
    codec = HeatmapCodec((192, 256), (48, 64))
    images, keypoints = (values.to(device) for values in people(batch))

    def step(*changes: str) -> float:
        products = "attention in two products" in changes
        attention = sdpa_kernel(SDPBackend.MATH) if products else contextlib.nullcontext()
        ours.bfloat16 = (
            "in float32" not in changes if device == "cuda" else "in bfloat16" in changes
        )
        ours.model = ours.cycled if "not compiled" in changes else compiled
        with attention, exactly("exact" in changes):
            given = normalize_images(images)
            if "channels-first" in changes:
                given = given.contiguous()
            return float(ours(given, *codec.encode(keypoints)))

    return step


def build_straight(name: str, batch: int, device: str) -> Callable[..., float]:
    """The step as one writes it with the paper beside."""
    straight = StraightSDPose(same_model(name)).train().to(device)
    optimizer = torch.optim.Adam(straight.parameters(), lr=1e-4)
    raw, keypoints = people(batch)
    images = normalize_images(raw).contiguous().to(device)

    def targets() -> list[Tensor]:
        drawn = draw_all(keypoints.numpy(), draw_whole)
        return [torch.from_numpy(values).to(device) for values in drawn]

    given = targets()

    def step(*changes: str) -> float:
        target, weight = given if "targets given" in changes else targets()

        def task(heatmaps: Tensor) -> Tensor:
            return ((heatmaps - target) * weight[..., None, None]).square().mean()

        groups = slice(0, weight.shape[1]), slice(weight.shape[1], None)
        with exactly("exact" in changes):
            made = HandFed(*straight(images))
            loss = equation_4(made, task, (TOKEN_WEIGHT,) * 2, groups, detach=False)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return float(loss.detach())

    return step


def exactly(wanted: bool) -> contextlib.AbstractContextManager[object]:
    """Whether convolutions keep all of float32 on a GPU, where cuDNN's may round to 10 bits."""
    return torch.backends.cudnn.flags(enabled=False) if wanted else contextlib.nullcontext()


def same_model(name: str) -> CycleWrapper:
    """The same weights in every process."""
    torch.manual_seed(0)
    return create_sdpose(name)


def people(batch: int) -> tuple[Tensor, Tensor]:
    """Images `[B, 256, 192, 3]` in bytes and keypoints `[B, 17, 2]` in px, made up."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (batch, 256, 192, 3), dtype=torch.uint8, generator=generator)
    keypoints = torch.rand(batch, 17, 2, generator=generator) * torch.tensor([192, 256])
    return images, keypoints
