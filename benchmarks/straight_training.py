"""A training step: ours over a straight translation of the paper, and what each part of it gains.

On a GPU ours is in bfloat16 and compiled; the straight translation stays in float32. Both sides
start from the same weights, and from the keypoints of the same people: the straight translation
draws the targets one by one in numpy, with images that are floats already; ours normalises bytes
and draws on the device. One optimiser step each, in a process of its own.
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
BATCHES = {"cpu": 17, "cuda": 128}
LIMITS = {"cpu": 1.25, "cuda": 3.0}
RATE = 1e-4
TOKEN_WEIGHT = 5e-6
PLAIN = {"cpu": (), "cuda": ("not compiled", "in float32")}
PARTS = {
    "cpu": {
        "convolutions in the order of channels, not channels-last": ("channels-first",),
        "attention in two products, not fused": ("products",),
        "in bfloat16, not float32": ("in bfloat16",),
    },
    "cuda": {
        "not compiled": ("not compiled",),
        "not compiled, in float32": ("not compiled", "in float32"),
        "not compiled, convolutions in the order of channels": ("not compiled", "channels-first"),
        "not compiled, attention in two products": ("not compiled", "products"),
    },
}


def measure(rounds: int, device: str = "cpu") -> Iterator[Comparison]:
    batch = BATCHES[device]
    yield from of_model("SDPose-T", "sdpose_t", batch, rounds, parts=True, device=device)
    yield from of_model("SDPose-S-V1", "sdpose_s_v1", batch, rounds, device=device)


def of_model(
    name: str, model: str, batch: int, rounds: int, parts: bool = False, device: str = "cpu"
) -> Iterator[Comparison]:
    """Straight / ours, and with ``parts`` ours with one part changed / ours."""
    label = f"training step, {name}, batch {batch}"
    with contextlib.ExitStack() as stack:
        ours = stack.enter_context(Apart(build_ours, model, batch, device))
        straight = stack.enter_context(Apart(build_straight, model, batch, device))
        # Each one's first step, from the same weights and without TF32.
        expected, loss = ours(*PLAIN[device], "exact")[1], straight("exact")[1]
        assert abs(loss - expected) < 1e-4 * abs(expected), (loss, expected)
        calls: dict[str, tuple[Apart, tuple[str, ...]]] = {
            f"{label}: straight translation / ours": (straight, ())
        }
        if parts:
            calls[f"{label}: straight translation, its targets given / ours"] = (
                straight,
                ("targets given",),
            )
            calls |= {
                f"{label}: {what} / ours": (ours, part) for what, part in PARTS[device].items()
            }
        ratios: dict[str, list[float]] = {key: [] for key in calls}
        steps: dict[str, tuple[Apart, tuple[str, ...]]] = {"": (ours, ()), **calls}
        for side, changes in steps.values():
            side(*changes)
        for number in range(rounds):
            order = list(steps) if number % 2 else list(reversed(steps))
            taken = {key: steps[key][0](*steps[key][1])[0] for key in order}
            for key in calls:
                ratios[key].append(taken[key] / taken[""])
    for key, values in ratios.items():
        low, middle, high = statistics.quantiles(values, n=4)
        if "translation / ours" in key:
            limit, note = LIMITS[device], "the steps per second"
            yield Comparison(key, middle, low, high, limit, note, True)
        else:
            yield Comparison(key, middle, low, high)


def build_ours(model: str, batch: int, device: str) -> Callable[..., float]:
    """The step as the pose recipe and `fit` do it; its arguments change parts of it."""
    cycled = same_model(model).train().to(device)
    compiled = torch.compile(cycled) if device == "cuda" else cycled
    criterion = sdpose_loss(cycled.plain, token_weight=TOKEN_WEIGHT).to(device)
    codec = HeatmapCodec((192, 256), (48, 64))
    optimizer = torch.optim.Adam(cycled.parameters(), lr=RATE)
    images, keypoints = (values.to(device) for values in people(batch))

    def step(*changes: str) -> float:
        attention = sdpa_kernel(SDPBackend.MATH) if "products" in changes else None
        bfloat16 = "in float32" not in changes if device == "cuda" else "in bfloat16" in changes
        with attention or contextlib.nullcontext(), exactly("exact" in changes):
            given = normalize_images(images)
            if "channels-first" in changes:
                given = given.contiguous()
            target, weight = codec.encode(keypoints)
            with torch.autocast(device, torch.bfloat16, enabled=bfloat16):
                output = (cycled if "not compiled" in changes else compiled)(given)
                losses = criterion(output, target, weight)
            optimizer.zero_grad()
            losses.total.backward()
            optimizer.step()
        return float(losses.total.detach())

    return step


def build_straight(model: str, batch: int, device: str) -> Callable[..., float]:
    """The step as one writes it with the paper beside."""
    cycled = same_model(model)
    depth, num_cycles = len(cycled.plain.blocks), cycled.num_cycles
    straight = StraightSDPose(copy.deepcopy(cycled.plain.backbone), depth, num_cycles).train()
    straight.load_state_dict(cycled.state_dict())
    straight.to(device)
    optimizer = torch.optim.Adam(straight.parameters(), lr=RATE)
    raw, keypoints = people(batch)
    images = normalize_images(raw).contiguous().to(device)

    def targets() -> list[Tensor]:
        drawn = draw_all(keypoints.numpy(), draw_whole)
        return [torch.from_numpy(values).to(device) for values in drawn]

    given = targets()

    def step(*changes: str) -> float:
        target, weight = given if "targets given" in changes else targets()
        with exactly("exact" in changes):
            loss = straight_loss(straight, images, target, weight)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return float(loss.detach())

    return step


def straight_loss(model: nn.Module, images: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Equation 4 of the paper: heatmaps of every cycle, tokens of every pair of cycles."""
    heatmaps, tokens = model(images)
    loss = torch.zeros((), device=images.device)
    for predicted in heatmaps:
        loss = loss + ((predicted - target) * weight[..., None, None]).square().mean()
    keypoints = weight.shape[1]
    for student, teacher in itertools.pairwise(tokens):
        for part in (slice(0, keypoints), slice(keypoints, None)):
            distance = (student[:, part] - teacher[:, part]).square().mean()
            loss = loss + TOKEN_WEIGHT * distance
    return loss


def exactly(wanted: bool) -> contextlib.AbstractContextManager[object]:
    """Whether convolutions keep all of float32 on a GPU, where cuDNN's may round to 10 bits."""
    flags = torch.backends.cudnn.flags(enabled=False)
    return flags if wanted else contextlib.nullcontext()


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
