"""A training step: ours over a straight translation of the paper, and what each part of it gains.

Both sides start from the same weights, and from the keypoints of the same people: the straight
translation draws the targets one by one in numpy, with images that are floats already; ours
normalises bytes and draws on the device. One optimiser step each, in a process of its own.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
import statistics
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.apart import Apart
from benchmarks.codec import draw_all, draw_whole
from benchmarks.comparison import Comparison
from benchmarks.straight_sdpose import StraightSDPose
from cycledistill import CycleWrapper
from cycledistill_pose import HeatmapCodec, create_sdpose
from cycledistill_pose.data import normalize_images
from cycledistill_pose.models import sdpose_loss

# Above 16 images PyTorch takes another convolution on one thread, the one that batches of use take.
BATCH = 17
RATE = 1e-4
TOKEN_WEIGHT = 5e-6
PARTS = {
    "convolutions in the order of channels, not channels-last": "channels-first",
    "attention in two products, not fused": "products",
    "in bfloat16, not float32": "bfloat16",
}


def measure(rounds: int) -> Iterator[Comparison]:
    yield from of_model("SDPose-T", "sdpose_t", BATCH, rounds, parts=True)
    yield from of_model("SDPose-S-V1", "sdpose_s_v1", BATCH, rounds)


def of_model(
    name: str, model: str, batch: int, rounds: int, parts: bool = False
) -> Iterator[Comparison]:
    """Straight / ours, and with ``parts`` ours with one part taken away / ours."""
    label = f"training step, {name}, batch {batch}"
    with contextlib.ExitStack() as stack:
        ours = stack.enter_context(Apart(build_ours, model, batch))
        straight = stack.enter_context(Apart(build_straight, model, batch))
        calls = {f"{label}: straight translation / ours": (straight, "")}
        expected = ours("")[1]
        for side, _ in calls.values():  # each one's first step, from the same weights
            loss = side("")[1]
            assert abs(loss - expected) < 1e-4 * abs(expected), (loss, expected)
        if parts:
            calls |= {f"{label}: {what} / ours": (ours, part) for what, part in PARTS.items()}
        ratios: dict[str, list[float]] = {key: [] for key in calls}
        steps = {"": (ours, ""), **calls}
        for number in range(rounds):
            order = list(steps) if number % 2 else list(reversed(steps))
            taken = {key: steps[key][0](steps[key][1])[0] for key in order}
            for key in calls:
                ratios[key].append(taken[key] / taken[""])
    for key, values in ratios.items():
        low, middle, high = statistics.quantiles(values, n=4)
        if "straight" in key:
            yield Comparison(key, middle, low, high, 1.25, "the steps per second", True)
        else:
            yield Comparison(key, middle, low, high)


def build_ours(model: str, batch: int) -> Callable[[str], float]:
    """The step as the pose recipe and `fit` do it; its argument takes a part of it away."""
    cycled = same_model(model).train()
    criterion = sdpose_loss(cycled.model, token_weight=TOKEN_WEIGHT)
    codec = HeatmapCodec((192, 256), (48, 64))
    optimizer = torch.optim.Adam(cycled.parameters(), lr=RATE)
    images, keypoints = people(batch)

    def step(without: str) -> float:
        attention = sdpa_kernel(SDPBackend.MATH) if without == "products" else None
        with attention or contextlib.nullcontext():
            given = normalize_images(images)
            if without == "channels-first":
                given = given.contiguous()
            target, weight = codec.encode(keypoints)
            with torch.autocast("cpu", torch.bfloat16, enabled=without == "bfloat16"):
                losses = criterion(cycled(given), target, weight)
            optimizer.zero_grad()
            losses.total.backward()
            optimizer.step()
        return float(losses.total.detach())

    return step


def build_straight(model: str, batch: int) -> Callable[[str], float]:
    """The step as one writes it with the paper beside."""
    cycled = same_model(model)
    depth, num_cycles = len(cycled.model.blocks), cycled.num_cycles
    straight = StraightSDPose(copy.deepcopy(cycled.model.backbone), depth, num_cycles).train()
    straight.load_state_dict(cycled.state_dict())
    optimizer = torch.optim.Adam(straight.parameters(), lr=RATE)
    raw, keypoints = people(batch)
    images = normalize_images(raw).contiguous()

    def step(_: str) -> float:
        drawn, weights = draw_all(keypoints.numpy(), draw_whole)
        loss = straight_loss(straight, images, torch.from_numpy(drawn), torch.from_numpy(weights))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return step


def straight_loss(model: nn.Module, images: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Equation 4 of the paper: heatmaps of every cycle, tokens of every pair of cycles."""
    heatmaps, tokens = model(images)
    loss = torch.zeros(())
    for predicted in heatmaps:
        loss = loss + ((predicted - target) * weight[..., None, None]).square().mean()
    keypoints = weight.shape[1]
    for student, teacher in itertools.pairwise(tokens):
        for part in (slice(0, keypoints), slice(keypoints, None)):
            distance = (student[:, part] - teacher[:, part]).square().mean()
            loss = loss + TOKEN_WEIGHT * distance
    return loss


def same_model(model: str) -> CycleWrapper:
    """The same weights in every process."""
    torch.manual_seed(0)
    return create_sdpose(model)


def people(batch: int) -> tuple[Tensor, Tensor]:
    """Images `[B, 256, 192, 3]` in bytes and keypoints `[B, 17, 2]` in px, made up."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (batch, 256, 192, 3), dtype=torch.uint8, generator=generator)
    keypoints = torch.rand(batch, 17, 2, generator=generator) * torch.tensor([192, 256])
    return images, keypoints
